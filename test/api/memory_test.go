package api_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"fleet.nationtech.io/fleet/test/process"
)

// The server as shipped has a soft limit of memory from its start: three quarters of what
// the machine has or its control group allows, unless an operator chose another.
func TestSoftMemoryLimit(t *testing.T) {
	t.Parallel()
	const least, chosen = 256 << 20, 300 << 20
	var machine syscall.Sysinfo_t
	if err := syscall.Sysinfo(&machine); err != nil {
		t.Fatal(err)
	}
	most := float64(machine.Totalram) * float64(machine.Unit) * 3 / 4
	for limit, want := range map[string][2]float64{"": {least, max(least, most)}, "300MiB": {chosen, chosen}} {
		t.Run("GOMEMLIMIT="+limit, func(t *testing.T) {
			t.Parallel()
			s, err := process.StartServer(t.Context(), process.Config{Binary: binary(t), DataDir: t.TempDir(), Command: func(ctx context.Context, name string, args ...string) *exec.Cmd {
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Env = append(os.Environ(), "GOMEMLIMIT="+limit)
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
			if err != nil || got < want[0] || got > want[1] {
				t.Errorf("the limit is %.0f, want within %.0f: %v", got, want, err)
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
