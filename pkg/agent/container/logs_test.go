package container_test

import (
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

func TestLastLines(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "a": "a", "a\nb\nc\n": "b\nc\n", "a\nb\nc": "b\nc", "b\nc\n": "b\nc\n", "\n\n\n": "\n\n"} {
		if got := container.LastLines([]byte(text), 2); string(got) != want {
			t.Errorf("of %q: %q, want %q", text, got, want)
		}
	}
}
