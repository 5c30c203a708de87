//go:build linux

package lab_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/test/lab"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// open returns a lab. It skips where machines cannot run, except in CI, which
// has to run them.
func open(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// boot returns a machine that is gone after the test.
func boot(t *testing.T, l *lab.Lab, c lab.Config) *lab.Machine {
	t.Helper()
	m, err := l.Boot(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := m.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	return m
}

// must returns the standard output of a command that has to succeed.
func must(t *testing.T, m *lab.Machine, args ...string) string {
	t.Helper()
	out, err := m.Output(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mustAs is must as another user.
func mustAs(t *testing.T, m *lab.Machine, user string, args ...string) string {
	t.Helper()
	out, err := m.OutputAs(t.Context(), user, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// eventually waits until ok reports true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: still not so after 90 s", what)
		case <-ticker.C:
		}
	}
}
