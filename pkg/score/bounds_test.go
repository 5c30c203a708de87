package score_test

import (
	"errors"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/score"
)

// A document is read up to its bounds and not beyond.
func TestBoundsOfADocument(t *testing.T) {
	t.Parallel()
	blank := func(size int) []byte { return []byte("{" + strings.Repeat(" ", size-2) + "}") }
	nested := func(opening, closing string, levels int) []byte {
		return []byte(strings.Repeat(opening, levels) + "1" + strings.Repeat(closing, levels))
	}
	const longest, deepest = 2 * score.MaxSize, 64
	for name, tt := range map[string]struct {
		data []byte
		good bool
	}{
		"the longest":         {blank(longest), true},
		"longer":              {blank(longest + 1), false},
		"the deepest objects": {nested(`{"a":`, "}", deepest), true},
		"deeper objects":      {nested(`{"a":`, "}", deepest+1), false},
		"the deepest lists":   {nested("[", "]", deepest), true},
		"deeper lists":        {nested("[", "]", deepest+1), false},
	} {
		if _, err := score.Canonical("X", tt.data); tt.good != (err == nil) || err != nil && !errors.Is(err, score.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A name from outside is shown as it is only if it looks like the name of a field.
func TestNamesInErrors(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 64)
	for name, shown := range map[string]string{
		"imgae":    "data.imgae: ",
		"~":        "data.~: ",
		"!":        "data.!: ",
		long:       "data." + long + ": ",
		long + "n": `data."` + long + `": `,
		"a b":      `data."a b": `,
		"a.b":      `data."a.b": `,
		"\u007f":   `data."\x7f": `,
		"":         `data."": `,
	} {
		_, err := score.Validate(score.TypePodmanV0, []byte(`{"`+name+`": 1}`))
		if err == nil || !strings.HasPrefix(err.Error(), shown) {
			t.Errorf("%q: %v, want %s", name, err, shown)
		}
	}
}
