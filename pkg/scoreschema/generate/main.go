// Command generate writes the JSON Schemas of score types, where they are embedded and
// where they are published.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/scoreschema"
	"fleet.nationtech.io/fleet/pkg/scoreschema/derive"
)

// published are the schemas of score types: the name of the file, and the rest.
var published = []struct {
	name, id, title string
	of              reflect.Type
	validate        derive.Validate
}{
	{"podman-v0", scoreschema.ID, score.TypePodmanV0, reflect.TypeFor[score.PodmanV0](), derive.PodmanV0},
	{"files-v0", scoreschema.FilesID, score.TypeFilesV0, reflect.TypeFor[score.FilesV0](), derive.FilesV0},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// run is called in the directory of package scoreschema.
func run() error {
	sources, err := derive.ReadSources("../score")
	if err != nil {
		return err
	}
	for _, p := range published {
		examples, err := derive.Examples("../../examples/" + p.name)
		if err != nil {
			return err
		}
		d := derive.Deriver{Sources: sources, Examples: examples, Validate: p.validate}
		s, err := d.Schema(p.of)
		if err != nil {
			return err
		}
		s.Draft, s.ID, s.Title = scoreschema.Draft, p.id, p.title
		data, err := scoreschema.Encode(s)
		if err != nil {
			return err
		}
		for _, dir := range []string{".", "../../docs/reference"} {
			if err := os.WriteFile(filepath.Join(dir, p.name+".schema.json"), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
