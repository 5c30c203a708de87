package podman_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestControllersOfControlGroups: a device without any is not one that cannot tell.
func TestControllersOfControlGroups(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string][]string{
		`{"host":{"cgroupControllers":["cpu","pids"],"cgroupVersion":"v2"}}`: {"cpu", "pids"},
		`{"host":{"cgroupControllers":[],"cgroupVersion":"v2"}}`:             {},
		`{"host":{"cgroupControllers":null}}`:                                nil,
		`{"host":{}}`:                                                        nil,
	} {
		client := impostor(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })
		info, err := client.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, info.Controllers); diff != "" {
			t.Errorf("%s (-want +got):\n%s", answer, diff)
		}
	}
}
