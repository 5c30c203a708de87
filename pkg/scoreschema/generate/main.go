// Command generate writes the JSON Schemas of score types, where they are embedded and
// where they are published.
package main

import (
	"fmt"
	"os"
	"reflect"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/scoreschema"
	"fleet.nationtech.io/fleet/pkg/scoreschema/derive"
)

func main() {
	if err := run("podman-v0.schema.json", "../../docs/reference/podman-v0.schema.json"); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// run is called in the directory of package scoreschema.
func run(files ...string) error {
	sources, err := derive.ReadSources("../score")
	if err != nil {
		return err
	}
	examples, err := derive.Examples("../../examples/podman-v0")
	if err != nil {
		return err
	}
	d := derive.Deriver{Sources: sources, Examples: examples, Validate: derive.PodmanV0}
	s, err := d.Schema(reflect.TypeFor[score.PodmanV0]())
	if err != nil {
		return err
	}
	s.Draft, s.ID, s.Title = scoreschema.Draft, scoreschema.ID, score.TypePodmanV0
	data, err := scoreschema.Encode(s)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
