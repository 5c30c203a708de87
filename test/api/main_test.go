// Package api_test tests fleet-server as shipped by what people do with it:
// its commands, and plain kubectl. `make test-integration` builds it first.
package api_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

// binary is the fleet-server that `make build` made.
func binary(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "fleet-server"))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return path
}

// start starts a server that is stopped at the end of the test.
func start(t *testing.T) *process.Server {
	t.Helper()
	s, err := process.StartServer(t.Context(), process.Config{Binary: binary(t), DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// user runs kubectl and looks at what it prints.
type user struct {
	t *testing.T
	s *process.Server
}

// kubectl runs kubectl, which has to succeed.
func (u user) kubectl(args ...string) string {
	u.t.Helper()
	out, err := u.s.Kubectl(u.t.Context(), args...)
	if err != nil {
		u.t.Fatal(err)
	}
	return out
}

// refused runs kubectl, which has to fail and to say why.
func (u user) refused(says string, args ...string) {
	u.t.Helper()
	out, err := u.s.Kubectl(u.t.Context(), args...)
	if err == nil {
		u.t.Fatalf("kubectl %s succeeded: %s", strings.Join(args, " "), out)
	}
	if !strings.Contains(err.Error(), says) {
		u.t.Errorf("kubectl %s: %v, want it to say %q", strings.Join(args, " "), err, says)
	}
}

// apply applies a manifest.
func (u user) apply(manifest string) string {
	u.t.Helper()
	out, err := u.s.Apply(u.t.Context(), manifest)
	if err != nil {
		u.t.Fatal(err)
	}
	return out
}

// shows fails the test unless text has every part.
func (u user) shows(text string, parts ...string) {
	u.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			u.t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	wait.For(t, what, 20*time.Second, 20*time.Millisecond, check)
}

func deployment(name string) string {
	return fmt.Sprintf(`apiVersion: fleet.nationtech.io/v1alpha1
kind: Deployment
metadata:
  name: %s
  namespace: default
spec:
  targetSelector:
    matchLabels: {site: a}
  score:
    type: PodmanV0
    data:
      services:
      - name: web
        image: localhost/hello:1
`, name)
}
