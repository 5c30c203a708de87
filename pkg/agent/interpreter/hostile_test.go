package interpreter_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/interpreter"
	"fleet.nationtech.io/fleet/pkg/agent/interpreter/interpretertest"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// listenAt makes the program of the tests one that listens at a path until its input ends.
const listenAt = "INTERPRETER_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenAt); path != "" {
		if _, err := net.Listen("unix", path); err != nil {
			panic(err)
		}
		fmt.Println("listening")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	goleak.VerifyTestMain(m)
}

// A program that listens by itself is none of root's, wherever it can.
func TestAnotherAccountListens(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another account")
	}
	const nobody = 65534
	dir := filepath.Dir(interpretertest.Listen(t).Addr().String())
	socket := filepath.Join(dir, "other")
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{listenAt + "=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, os.Chmod(dir, 0o777), cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for mode, says := range map[os.FileMode]string{
		0o755:                 "account 65534 listens there, and root must",
		0o777 | os.ModeSticky: "others than root may write in",
	} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := interpreter.New(interpreter.Config{Name: "other", Types: []string{"NoteV0"}, Socket: socket}).Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("mode %v: it says %v, want %q", mode, err, says)
		}
	}
}

var ref = wire.DeploymentRef{Namespace: "shop", Name: "web"}

// saying serves what answers every request with some bytes, and counts the requests.
func saying(t *testing.T, answer func(line string, conn net.Conn)) (*interpreter.Driver, func() int) {
	t.Helper()
	l := interpretertest.Listen(t)
	asked := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			asked <- line
			answer(line, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	cfg := interpretertest.Config(l, "NoteV0")
	cfg.Patience = 200 * time.Millisecond
	return interpreter.New(cfg), func() int { return len(asked) }
}

// listing answers list with a Deployment, and the rest with an answer.
func listing(answer string) func(string, net.Conn) {
	return func(line string, conn net.Conn) {
		if strings.Contains(line, `"method":"list"`) {
			_, _ = conn.Write([]byte(`{"deployments":[{"namespace":"shop","name":"web"}]}` + "\n"))
			return
		}
		_, _ = conn.Write([]byte(answer))
	}
}

// What an interpreter says is bounded, and steers no terminal.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ answer, says string }{
		"nothing":      {"", "it closed the connection without an answer"},
		"no JSON":      {"hello\x1b[2J\n", "its answer is no line of the protocol"},
		"another kind": {`{"exists":"\u001b[2J"}` + "\n", "its answer is no line of the protocol"},
		"no end":       {strings.Repeat("x", 1<<20), "its answer is longer than 262144 bytes"},
		"an error":     {`{"error":{"code":"failed","message":"a\u001b[2J\nb"}}` + "\n", `a\u001b[2J b`},
		"a long error": {`{"error":{"message":"` + strings.Repeat("y", 100<<10) + `"}}` + "\n", "yyy…"},
		"a version":    {`{"error":{"code":"version","message":"version 1 of the protocol is unknown"}}` + "\n", "version 1 of the protocol is unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := saying(t, listing(tc.answer))
			_, err := d.Observe(t.Context(), ref)
			if !errors.Is(err, workload.ErrUnavailable) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("it says %v, want %q", err, tc.says)
			}
			if err != nil && (len(err.Error()) > wire.MaxError || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("%d bytes: %.300q", len(err.Error()), err.Error())
			}
		})
	}
}

func TestHostileStates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for answer, want := range map[string]workload.State{
		`{"exists":true,"phase":"Running","note":"a\u001b[2J\nb"}`:             {Phase: wire.PhaseRunning, Note: `a\u001b[2J b`},
		`{"exists":true,"phase":"Removed"}`:                                    {Phase: wire.PhasePending},
		`{"exists":true,"phase":"Failed"}`:                                     {Phase: wire.PhaseFailed, Error: "the interpreter does not say why"},
		`{"exists":true,"phase":"Running","changedAt":"2999-01-01T00:00:00Z"}`: {Phase: wire.PhaseRunning, LastEvent: now},
	} {
		d, _ := saying(t, listing(answer+"\n"))
		i, err := d.Observe(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		got := i.State(nil, now)
		if got.Phase != want.Phase || got.Note != want.Note || got.Error != want.Error || !got.LastEvent.Equal(want.LastEvent) {
			t.Errorf("%s: %+v, want %+v", answer, got, want)
		}
	}
}

// One that does not answer is not asked again for each Deployment.
func TestSilence(t *testing.T) {
	t.Parallel()
	wait := make(chan struct{})
	d, asked := saying(t, func(string, net.Conn) { <-wait })
	defer close(wait)
	began := time.Now()
	for i := range 20 {
		_, err := d.Observe(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: fmt.Sprint("web-", i)})
		if !errors.Is(err, workload.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("it says %v", err)
		}
	}
	if took := time.Since(began); took > 2*time.Second || asked() > 1 {
		t.Errorf("it took %v, and %d questions", took, asked())
	}
	if _, err := d.Parse(ref, "NoteV0", []byte(`{}`)); err == nil || errors.Is(err, workload.ErrUnavailable) {
		t.Errorf("a score is %v: the Deployment has to say why", err)
	}
}

// Of Deployments that are none of its own, an interpreter is not asked.
func TestOthersAreNotAsked(t *testing.T) {
	t.Parallel()
	d, asked := saying(t, listing(`{"exists":true}`+"\n"))
	for range 3 {
		if i, err := d.Observe(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "other"}); err != nil || i.Exists() {
			t.Errorf("it exists, or %v", err)
		}
	}
	if asked() != 1 {
		t.Errorf("%d questions", asked())
	}
}

// Only root's directories and root's sockets are taken.
func TestSocketsOfOthers(t *testing.T) {
	t.Parallel()
	l := interpretertest.Listen(t)
	for says, change := range map[string]func(*interpreter.Config) error{
		"others than root may write in": func(c *interpreter.Config) error { return os.Chmod(filepath.Dir(c.Socket), 0o777) },
		"no such file": func(c *interpreter.Config) error {
			c.Socket += "-not"
			return os.Chmod(filepath.Dir(c.Socket), 0o700)
		},
	} {
		cfg := interpretertest.Config(l, "NoteV0")
		if err := change(&cfg); err != nil {
			t.Fatal(err)
		}
		_, err := interpreter.New(cfg).Ready(t.Context())
		if !errors.Is(err, workload.ErrUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("it says %v, want %q", err, says)
		}
	}
}

func TestRegistrations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "types: [AV0]\nsocket: /run/a.sock\n",
		"b.yaml": "types: [AV0]\nsocket: /run/b.sock\n",
		"c.yaml": "types: [PodmanV0]\nsocket: /run/c.sock\n",
		"d.yaml": "types: []\nsocket: /run/d.sock\n",
		"e.yaml": "types: ['\x1b[2J']\nsocket: /run/e.sock\n",
		"f.yaml": "types: [FV0]\nsocket: f.sock\n",
		"g.yaml": "types: [GV0]\nsocket: /run/g.sock\nuser: x\n",
		"h.yaml": "{",
		"i.txt":  "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, refused := interpreter.Find(dir, os.Getuid())
	if len(found) != 3 || len(refused) != 5 {
		t.Errorf("found are %+v, refused %v", found, refused)
	}
	chosen, doubled := interpreter.Choose(found, []string{"PodmanV0"})
	if len(chosen) != 1 || chosen[0].Name != "a" || len(doubled) != 2 {
		t.Errorf("chosen are %+v, refused %v", chosen, doubled)
	}
	if err := os.Chmod(filepath.Join(dir, "a.yaml"), 0o666); err != nil {
		t.Fatal(err)
	}
	if found, _ := interpreter.Find(dir, os.Getuid()); len(found) != 2 {
		t.Errorf("a file that others may write is taken: %+v", found)
	}
	if found, refused := interpreter.Find(filepath.Join(dir, "absent"), 0); found != nil || refused != nil {
		t.Errorf("%v, %v", found, refused)
	}
}

// A question ends with the context that it has.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	wait := make(chan struct{})
	d, _ := saying(t, func(string, net.Conn) { <-wait })
	defer close(wait)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Ready(ctx); err == nil {
		t.Error("it is ready")
	}
}
