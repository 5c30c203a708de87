package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/interpreter"
	"fleet.nationtech.io/fleet/pkg/agent/interpreter/interpretertest"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// asProgram makes the program of the tests fleet-note itself.
const asProgram = "FLEET_NOTE_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// activate starts the program for each connection, as systemd does for a socket with
// Accept=yes.
func activate(t *testing.T, l *net.UnixListener, dir string) {
	t.Helper()
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	all.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				file, err := conn.File()
				if err != nil {
					t.Error(err)
					return
				}
				defer file.Close()
				cmd := exec.Command(os.Args[0])
				cmd.Env = []string{asProgram + "=1", "STATE_DIRECTORY=" + dir}
				cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, os.Stderr
				if err := cmd.Run(); err != nil {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close() })
}

func TestNotesConform(t *testing.T) {
	t.Parallel()
	l, dir := interpretertest.Listen(t), t.TempDir()
	activate(t, l, dir)
	workloadtest.Conformance(t, workloadtest.Subject{
		New: func() workload.Driver { return interpreter.New(interpretertest.Config(l, "NoteV0")) },
		Score: func(version int) wire.Score {
			return wire.Score{Type: "NoteV0", Data: []byte(`{"text":"version ` + string(rune('0'+version)) + `"}`)}
		},
		Bad: wire.Score{Type: "NoteV0", Data: []byte(`{"test":"x"}`)},
		Break: func(t *testing.T, ref wire.DeploymentRef) {
			if err := os.Remove(notes{dir}.path(ref)); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// The registration that the package has can be read.
func TestRegistration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text, err := os.ReadFile("packaging/note.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "note.yaml"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	found, refused := interpreter.Find(dir, os.Getuid())
	if len(found) != 1 || len(refused) > 0 || found[0].Types[0] != "NoteV0" || found[0].Name != "note" {
		t.Errorf("found is %+v, refused %v", found, refused)
	}
}
