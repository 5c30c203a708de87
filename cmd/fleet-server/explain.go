package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/scoreschema"
)

// explainWidth is how wide descriptions are.
const explainWidth = 100

// explained are the schemas of score types.
var explained = map[string]func() []byte{score.TypePodmanV0: scoreschema.PodmanV0, score.TypeFilesV0: scoreschema.FilesV0}

func newExplain() *cobra.Command {
	var asSchema bool
	cmd := &cobra.Command{
		Use:   "explain TYPE[.FIELD...]",
		Short: "Explain the fields of a score",
		Long: "Explain the fields of the data of a score of a type (" + score.TypeNames() + "): their types, what they\n" +
			"are for, and what they may be.\n" +
			"kubectl explain does so for the Deployment around it. With --schema, print the JSON Schema of all\n" +
			"fields instead, for editors.",
		Example:           "  fleet-server explain PodmanV0\n  fleet-server explain PodmanV0.services.ports\n  fleet-server explain PodmanV0 --schema > podman-v0.schema.json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeExplain,
		RunE: func(cmd *cobra.Command, args []string) error {
			typ, path, _ := strings.Cut(args[0], ".")
			schema, known := explained[typ]
			if !known {
				return fmt.Errorf("unknown score type %.63q: this server knows %s", typ, score.TypeNames())
			}
			if asSchema {
				_, err := cmd.OutOrStdout().Write(schema())
				return err
			}
			s, err := scoreschema.Parse(schema())
			if err != nil {
				return err
			}
			field, err := scoreschema.Find(s, path)
			if err != nil {
				return err
			}
			return explain(cmd.OutOrStdout(), args[0], field)
		},
	}
	cmd.Flags().BoolVar(&asSchema, "schema", false, "print the JSON Schema of the whole type")
	return cmd
}

func completeExplain(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []cobra.Completion
	for _, typ := range score.Types() {
		s, err := scoreschema.Parse(explained[typ]())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names = append(names, typ)
		for _, path := range scoreschema.Paths(s) {
			names = append(names, typ+"."+path)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// explain prints a field in the form of kubectl explain.
func explain(w io.Writer, name string, s *scoreschema.Schema) error {
	var b strings.Builder
	fmt.Fprintf(&b, "FIELD: %s <%s>\n", name, s.TypeName())
	if s.Description != "" {
		fmt.Fprintf(&b, "\nDESCRIPTION:\n%s", wrapped(s.Description, "    "))
	}
	if bounds := s.Bounds(); len(bounds) > 0 {
		fmt.Fprintf(&b, "\nBOUNDS:\n    %s\n", strings.Join(bounds, "\n    "))
	}
	if fields := s.Fields(); len(fields) > 0 {
		b.WriteString("\nFIELDS:\n")
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			required := ""
			if s.Requires(field) {
				required = " -required-"
			}
			fmt.Fprintf(&b, "  %s <%s>%s\n%s", field, fields[field].TypeName(), required, wrapped(fields[field].Description, "    "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrapped breaks a text into lines of an indentation.
func wrapped(text, indent string) string {
	var b strings.Builder
	line := indent
	for word := range strings.FieldsSeq(text) {
		if len(line)+len(word) > explainWidth {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		line += word + " "
	}
	if strings.TrimSpace(line) != "" {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}
