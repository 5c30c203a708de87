// Package nats runs NATS servers for tests as somebody else runs them: from a
// configuration file, without anything of fleet in their process.
package nats

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const readyTimeout = 20 * time.Second

// Start runs a server with a configuration until the end of the test. Its name is that in the
// configuration.
func Start(t testing.TB, config string) *server.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs = true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.SetLoggerV2(&lines{t: t}, os.Getenv("FLEET_NATS_DEBUG") != "", false, false)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(readyTimeout) {
		t.Fatalf("NATS server %s is not ready", s.Name())
	}
	return s
}

// lines writes the log of a server to a test.
type lines struct{ t testing.TB }

func (l *lines) write(level, format string, v []any) {
	fmt.Fprintf(l.t.Output(), "nats %s: "+format+"\n", append([]any{level}, v...)...)
}

// Noticef implements server.Logger.
func (l *lines) Noticef(string, ...any) {}

// Warnf implements server.Logger.
func (l *lines) Warnf(format string, v ...any) { l.write("warning", format, v) }

// Fatalf implements server.Logger.
func (l *lines) Fatalf(format string, v ...any) { l.write("fatal", format, v) }

// Errorf implements server.Logger.
func (l *lines) Errorf(format string, v ...any) { l.write("error", format, v) }

// Debugf implements server.Logger.
func (l *lines) Debugf(format string, v ...any) { l.write("debug", format, v) }

// Tracef implements server.Logger.
func (*lines) Tracef(string, ...any) {}
