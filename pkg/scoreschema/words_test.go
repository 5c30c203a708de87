package scoreschema_test

import (
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/scoreschema"
)

// TestEveryFieldIsExplained: fleet-server explain and editors have a text for each field, in a
// sentence.
func TestEveryFieldIsExplained(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]func() []byte{"PodmanV0": scoreschema.PodmanV0, "FilesV0": scoreschema.FilesV0} {
		s, err := scoreschema.Parse(schema())
		if err != nil {
			t.Fatal(err)
		}
		paths := scoreschema.Paths(s)
		if len(paths) < 9 {
			t.Errorf("%s has the fields %q only", name, paths)
		}
		for _, path := range paths {
			field, err := scoreschema.Find(s, path)
			if err != nil {
				t.Errorf("%s.%s: %v", name, path, err)
				continue
			}
			text := field.Description
			if len(strings.Fields(text)) < 3 || !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "…") || field.TypeName() == "" {
				t.Errorf("%s.%s <%s>: %q", name, path, field.TypeName(), text)
			}
		}
	}
}
