package api_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/test/process"
)

// The server as shipped has a soft limit of memory from its start: that of the machine or
// of its control group, unless an operator chose one.
func TestSoftMemoryLimit(t *testing.T) {
	t.Parallel()
	for chosen, want := range map[string]int64{"": embedserver.SoftMemoryLimit(), "300MiB": 300 << 20} {
		t.Run("GOMEMLIMIT="+chosen, func(t *testing.T) {
			t.Parallel()
			s, err := process.StartServer(t.Context(), process.Config{Binary: binary(t), DataDir: t.TempDir(), Command: func(ctx context.Context, name string, args ...string) *exec.Cmd {
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Env = append(os.Environ(), "GOMEMLIMIT="+chosen)
				return cmd
			}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
			})
			got, err := gauge(user{t, s}.kubectl("get", "--raw", "/metrics"), "go_gc_gomemlimit_bytes")
			if err != nil || int64(got) != want {
				t.Errorf("the limit is %.0f, want %d: %v", got, want, err)
			}
		})
	}
}

// gauge finds the value of a metric without labels.
func gauge(metrics, name string) (float64, error) {
	for line := range strings.Lines(metrics) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}
