// Package interpretertest serves interpreters to the driver of package interpreter. It is
// for tests only.
package interpretertest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	driver "fleet.nationtech.io/fleet/pkg/agent/interpreter"
	"fleet.nationtech.io/fleet/pkg/interpreter"
)

// Listen listens in a directory of its own until the test ends.
func Listen(t testing.TB) *net.UnixListener {
	t.Helper()
	dir, err := os.MkdirTemp("", "interpreter")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(dir)
	})
	return l
}

// Serve serves an interpreter until the test ends, and returns how a driver reaches it.
func Serve(t testing.TB, i interpreter.Interpreter, types ...string) driver.Config {
	t.Helper()
	l := Listen(t)
	s := interpreter.Server{Interpreter: i, Admit: interpreter.PeerIs(os.Getuid()), Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return Config(l, types...)
}

// Config is how a driver reaches what listens.
func Config(l *net.UnixListener, types ...string) driver.Config {
	return driver.Config{Name: "test", Types: types, Socket: l.Addr().String(), Owner: os.Getuid()}
}
