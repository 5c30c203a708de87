package api_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// secretsOfExamples are made as the example of a name says.
var secretsOfExamples = map[string][]string{
	"web":     {"web-tls", "--from-literal=tls.crt=x", "--from-literal=tls.key=x"},
	"metrics": {"grafana", "--from-literal=password=x"},
}

// TestExamples: the server takes each file of examples as it stands, and finds nothing to say
// against a Deployment of them.
func TestExamples(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	for _, file := range files {
		namespace := strings.TrimSuffix(filepath.Base(file), ".yaml")
		u.kubectl("create", "namespace", namespace)
		u.kubectl("label", "namespace", namespace, "fleet.nationtech.io/privilege=privileged")
		u.kubectl("apply", "-n", namespace, "-f", file)
		if secret := secretsOfExamples[namespace]; secret != nil {
			u.kubectl(append([]string{"create", "secret", "generic", "-n", namespace}, secret...)...)
		}
		u.kubectl("wait", "-n", namespace, "--for=condition=Accepted", "--timeout=20s", "fleetdep", "--all")
	}
}

// TestConverted: the server takes what becomes of a compose file and of a Pod.
func TestConverted(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.kubectl("label", "namespace", "default", "--overwrite", "fleet.nationtech.io/privilege=privileged")
	for _, named := range []string{"plant", "monitoring"} { // by what is converted
		u.kubectl("create", "namespace", named)
		u.kubectl("label", "namespace", named, "fleet.nationtech.io/privilege=privileged")
	}
	files, err := filepath.Glob("../../cmd/fleet-server/testdata/convert/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	applied := 0
	for _, file := range files {
		if name := filepath.Base(file); name != "compose.yaml" && name != "pod.yaml" {
			continue // a part of another one
		}
		converted, err := u.s.Run(t.Context(), "", "convert", "--name", fmt.Sprint("app", applied), file)
		if err != nil {
			t.Fatal(err)
		}
		u.apply(converted)
		applied++
	}
	if applied == 0 {
		t.Error("there is nothing to convert")
	}
	u.shows(u.kubectl("get", "fleetdep"), "app0")
}
