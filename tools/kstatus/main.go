// Kstatus prints what kstatus makes of each object of a list in JSON, as kubectl
// prints one: "KIND NAME STATUS MESSAGE". Flux, Helm and others follow a rollout
// by that.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	var list unstructured.UnstructuredList
	if err := json.NewDecoder(in).Decode(&list); err != nil {
		return fmt.Errorf("reading a list: %w", err)
	}
	for i := range list.Items {
		o := &list.Items[i]
		result, err := status.Compute(o)
		if err != nil {
			return fmt.Errorf("computing the status of %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if _, err := fmt.Fprintf(out, "%s %s %s %s\n", o.GetKind(), o.GetName(), result.Status, result.Message); err != nil {
			return err
		}
	}
	return nil
}
