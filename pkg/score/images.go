package score

import (
	"encoding/json"
	"slices"
)

// Images returns the names of the images that a body asks for, ordered, each once; none of a
// body that is no score with images. It does not validate.
func Images(body []byte) (names []string) {
	type named struct {
		Image string `json:"image"`
	}
	var b struct {
		Data struct {
			InitContainers []named `json:"initContainers"`
			Services       []named `json:"services"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &b) != nil {
		return nil
	}
	for _, n := range slices.Concat(b.Data.InitContainers, b.Data.Services) {
		if n.Image != "" {
			names = append(names, n.Image)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
