package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/convert"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// maxConverted bounds a file that is converted.
const maxConverted = 1 << 20

type convertOptions struct {
	name, namespace string
	selector        []string
	profiles        []string
	envFiles        []string
	strict          bool
}

func newConvert() *cobra.Command {
	o := &convertOptions{}
	cmd := &cobra.Command{
		Use:   "convert FILE...",
		Short: "Convert compose files, or Pods of Kubernetes and what makes them, into Deployments",
		Long: "Convert compose files, or Pods, Deployments, DaemonSets, StatefulSets, Jobs and CronJobs of Kubernetes, into\n" +
			"Deployments of fleet, and print them as YAML, after what agent.yaml of devices has to allow. Each thing that is\n" +
			"not translated, or means something else there, is a line on standard error: where it is, why, and what to do\n" +
			"instead. Several compose files are one project, in which later files override\n" +
			"earlier ones. Nothing is sent anywhere.",
		Example: "  fleet-server convert compose.yaml --selector site=plant-1 > deployments.yaml\n" +
			"  fleet-server convert --strict --profile camera compose.yaml compose.override.yaml",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the project, in place of the one in the file or of its directory")
	f.StringVar(&o.namespace, "namespace", "default", "namespace of the Deployments")
	f.StringSliceVar(&o.selector, "selector", nil, "label=value that devices must have; by default app=NAME of the Deployment")
	f.StringSliceVar(&o.profiles, "profile", nil, "profile of compose whose services are converted, too; * for all")
	f.StringSliceVar(&o.envFiles, "env-file", nil, "file with values of variables, in place of .env beside the compose file")
	f.BoolVar(&o.strict, "strict", false, "fail when anything is not translated")
	return cmd
}

func (o *convertOptions) run(ctx context.Context, stdout, stderr io.Writer, files []string) error {
	labels, err := o.labels()
	if err != nil {
		return err
	}
	result, source, err := o.convert(ctx, files)
	if err != nil {
		return err
	}
	text, err := convert.YAML(result, convert.Target{Namespace: o.namespace, Labels: labels})
	if err != nil {
		return err
	}
	if _, err := printable.Exact(stdout).Write(text); err != nil {
		return err
	}
	for _, loss := range result.Losses {
		place := source.Find(loss.Path)
		if _, err := fmt.Fprintf(stderr, "%s: %s: %s; %s\n", printable.Line(place.String()), printable.Line(loss.What()), printable.Line(loss.Why), printable.Line(loss.Instead)); err != nil {
			return err
		}
	}
	if n := len(result.Losses); o.strict && n > 0 {
		return fmt.Errorf("%d things are not translated as they are: change them, or convert without --strict", n)
	}
	return nil
}

func (o *convertOptions) labels() (map[string]string, error) {
	labels := map[string]string{}
	for _, each := range o.selector {
		name, value, ok := strings.Cut(each, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--selector %.100q is not label=value", each)
		}
		labels[name] = value
	}
	return labels, nil
}

// convert reads the files: the first one says by its kind what they are.
func (o *convertOptions) convert(ctx context.Context, files []string) (*convert.Result, *convert.Source, error) {
	source := &convert.Source{}
	var first []byte
	var all [][]byte
	for _, file := range files {
		data, err := readBounded(file, maxConverted)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, data)
		first = all[0]
	}
	if convert.IsKube(first) {
		result, err := convert.Kube(files, all, source)
		return result, source, err
	}
	for i, file := range files {
		source.Add(file, all[i])
	}
	result, err := o.compose(ctx, files, all)
	if err != nil {
		return nil, nil, err
	}
	result.Losses = append(source.Outside(), result.Losses...)
	return result, source, nil
}

// readBounded reads a regular file of a bounded size.
func readBounded(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path) //nolint:gosec // the user names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is longer than %d bytes", path, most)
	}
	return data, err
}
