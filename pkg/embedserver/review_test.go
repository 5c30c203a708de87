package embedserver_test

import (
	"fmt"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/score"
)

// What no device would be sent is refused, whatever its type; characters that some encoders
// escape do not make it longer.
func TestLongScoresAreRefused(t *testing.T) {
	t.Parallel()
	others := acceptance.Rules{Types: []string{"Other"}}
	privileged := func() (map[string]string, error) {
		return map[string]string{v1alpha1.LabelPrivilege: "privileged"}, nil
	}
	const frame = len(`{"data":{"text":""},"type":"Other"}`)
	for _, character := range []string{"x", "<"} {
		for length, refused := range map[int]bool{score.MaxSize - frame: false, score.MaxSize - frame + 1: true} {
			part := map[string]any{"type": "Other", "data": map[string]any{"text": strings.Repeat(character, length)}}
			o, err := embedserver.ReviewScore(others, part, privileged)
			if err != nil {
				t.Fatal(err)
			}
			if said := strings.Contains(fmt.Sprint(o.Objections), "at most 262144 are allowed"); said != refused {
				t.Errorf("%d times %s: %+v", length, character, o.Objections)
			}
			if len(o.Warnings) == 1 == refused {
				t.Errorf("warnings: %q", o.Warnings)
			}
		}
	}
}
