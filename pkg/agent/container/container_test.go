package container_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestLabelValueIsParsedBack(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		want := wire.DeploymentRef{Namespace: name.Draw(t, "namespace"), Name: name.Draw(t, "name")}
		got, ok := container.ParseLabelValue(container.LabelValue(want))
		if !ok || got != want {
			t.Fatalf("got %v, %t, want %v", got, ok, want)
		}
	})
}

func TestParseLabelValueRefusesForeignValues(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "web", "_", "a_", "_b", "a_b_c", "a/b", "A_b", "a._b"} {
		if ref, ok := container.ParseLabelValue(value); ok {
			t.Errorf("%q was taken for %v", value, ref)
		}
	}
}

func TestObjectNamesDoNotCollide(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,3}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		a := [3]string{name.Draw(t, "a0"), name.Draw(t, "a1"), name.Draw(t, "a2")}
		b := [3]string{name.Draw(t, "b0"), name.Draw(t, "b1"), name.Draw(t, "b2")}
		same := object(a) == object(b)
		if same != (a == b) {
			t.Fatalf("%v and %v: same name is %t", a, b, same)
		}
	})
}

func object(n [3]string) string {
	return container.ObjectName(wire.DeploymentRef{Namespace: n[0], Name: n[1]}, n[2])
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		c    container.Container
		want bool
	}{
		"running":               {container.Container{State: container.StateRunning, Started: start}, false},
		"never started":         {container.Container{State: container.StateCreated}, false},
		"ended":                 {container.Container{State: container.StateExited, Started: start, Finished: start.Add(1)}, false},
		"ended at once":         {container.Container{State: container.StateExited, Started: start, Finished: start.Add(-4 * time.Millisecond)}, false},
		"power cut, first run":  {container.Container{State: container.StateExited, Started: start}, true},
		"power cut, second run": {container.Container{State: container.StateExited, Started: start, Finished: start.Add(-time.Minute)}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, tt.c.LooksInterrupted()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
