package convert

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Outside are the mounts of services whose source is relative to the compose file and outside of
// its directory, or in a home: they become paths of the machine that converts, which say nothing
// of devices.
func (s *Source) Outside() (losses []Loss) {
	for _, root := range s.roots {
		var file struct {
			Services map[string]struct {
				Volumes []yaml.Node `yaml:"volumes"`
			} `yaml:"services"`
		}
		if root.Decode(&file) != nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(file.Services)) {
			for i, volume := range file.Services[name].Volumes {
				if source := sourceOf(&volume); strings.HasPrefix(source, "../") || source == ".." || strings.HasPrefix(source, "~") {
					losses = append(losses, Loss{
						Path: []string{"services", name, "volumes", item(i)}, Why: "devices do not have " + source + ": it became a path of this machine", Instead: "give an absolute path of the device",
					})
				}
			}
		}
	}
	return losses
}

// sourceOf is the source of a mount in one of its two forms.
func sourceOf(volume *yaml.Node) string {
	var long struct {
		Source string `yaml:"source"`
	}
	if volume.Kind == yaml.ScalarNode {
		source, _, _ := strings.Cut(volume.Value, ":")
		return source
	}
	_ = volume.Decode(&long) // what it is not, compose-go refused
	return long.Source
}
