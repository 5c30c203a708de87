package rights_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/rights"
	"fleet.nationtech.io/fleet/test/terminal"
)

// envRole makes the test's own program one that gives up its rights.
const envRole = "RIGHTS_TEST_ROLE"

var stranger = rights.Account{UID: 4242, GID: 4242}

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "":
		os.Exit(m.Run())
	case "become":
		if err := stranger.Become(); err != nil {
			fmt.Println(err)
		}
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		_, err := os.ReadFile(os.Args[1])
		fmt.Println(os.Getuid(), os.Geteuid(), os.Getgid(), dumpable, errors.Is(err, fs.ErrPermission), syscall.Setuid(0) != nil)
	case "root":
		fmt.Println(asRoot(os.Args[1]))
	case "planted":
		planted()
	}
}

// asRoot does on its terminal what root does: it runs a program that the stranger
// planted. It has a file open that a careless program would hand on.
func asRoot(how string) error {
	secret, err := unix.Open("/etc/shadow", unix.O_RDONLY, 0) // not close-on-exec
	if err != nil {
		return err
	}
	unix.CloseOnExec(secret)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := stranger.Command(ctx, "/proc/self/exe")
	streams := rights.Streams{Out: os.Stderr, Err: os.Stderr}
	switch how {
	case "runuser": // what keeps the terminal
		cmd.SysProcAttr.Setsid = false
		cmd.Stdin, cmd.Stdout = os.Stdin, os.Stderr
		cmd.Env = append(cmd.Env, envRole+"=planted")
		return cmd.Run()
	case "terminal":
		streams = rights.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stdout}
	}
	cmd.Env = append(cmd.Env, envRole+"=planted")
	return rights.Run(ctx, cmd, streams)
}

// planted types into every terminal that it can find.
func planted() {
	tty, err := unix.Open("/dev/tty", unix.O_RDWR, 0)
	fmt.Println("opened /dev/tty:", err == nil && tty > 0)
	for fd := range 64 {
		for _, c := range []byte(typed) {
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		}
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil && strings.HasPrefix(target, "/etc/") {
			fmt.Println("has", target)
		}
	}
	fmt.Println("variables:", strings.Join(os.Environ(), " "))
}

const typed = "touch /root/typed\r"

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
}

// public returns a directory that every account can enter.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "rights-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// tree makes a directory of the stranger's, below one of root's.
func tree(t *testing.T) (root, theirs string) {
	t.Helper()
	needRoot(t)
	root = public(t)
	theirs = filepath.Join(root, "theirs")
	for _, dir := range []string{root, theirs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "secret"))
	write(t, filepath.Join(theirs, "of-root"))
	if err := os.Chown(theirs, stranger.UID, stranger.GID); err != nil {
		t.Fatal(err)
	}
	return root, theirs
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhomRootTrusts(t *testing.T) {
	t.Parallel()
	root, theirs := tree(t)
	for name, target := range map[string]string{"to-theirs": theirs, "to-root": filepath.Join(root, "secret")} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "secret"), filepath.Join(theirs, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(theirs, "of-root"), filepath.Join(root, "to-file")); err != nil {
		t.Fatal(err)
	}
	for path, other := range map[string]bool{
		"secret": false, "none": false, "to-root": false, "theirs": true, "theirs/of-root": true, "theirs/none": true, "theirs/none/below": false,
		"theirs/link": true, "to-theirs": true, "to-theirs/of-root": true, "theirs/../secret": false, "to-file": true,
	} {
		account, found := rights.Of(filepath.Join(root, path))
		if found != other || found && account != stranger {
			t.Errorf("%s: %v, %v", path, account, found)
		}
	}
}

func TestBecome(t *testing.T) {
	t.Parallel()
	root, _ := tree(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", filepath.Join(root, "secret"))
	cmd.Env = []string{envRole + "=become"}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "4242 4242 4242 0 true true\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAs(t *testing.T) {
	t.Parallel()
	root, theirs := tree(t)
	made := filepath.Join(theirs, "made")
	var seen error
	err := stranger.As(func() error {
		_, seen = os.ReadFile(filepath.Join(root, "secret"))
		return os.WriteFile(made, nil, 0o600)
	})
	if err != nil || !errors.Is(seen, fs.ErrPermission) {
		t.Errorf("%v; reading root's file: %v", err, seen)
	}
	info, err := os.Lstat(made)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 4242 || s.Gid != 4242 {
		t.Errorf("it belongs to %d:%d", s.Uid, s.Gid)
	}
	if _, err := os.ReadFile(filepath.Join(root, "secret")); err != nil {
		t.Errorf("root reads no more: %v", err)
	}
	if err := stranger.As(func() error { return fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("file"))
	if err := errors.Join(syscall.Mkfifo(path("pipe"), 0o666), os.Symlink(path("file"), path("link")), os.Mkdir(path("directory"), 0o700),
		os.WriteFile(path("sparse"), nil, 0o600), os.Truncate(path("sparse"), 1<<40)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"file": nil, "none": fs.ErrNotExist, "pipe": rights.ErrNotRegular, "link": rights.ErrNotRegular, "directory": rights.ErrNotRegular, "sparse": rights.ErrTooLong,
	} {
		data, err := rights.ReadFile(path(name), 6)
		if !errors.Is(err, want) || want == nil && string(data) != "secret" {
			t.Errorf("%s: %q, %v, want %v", name, data, err, want)
		}
	}
}

// TestNobodyTypesIntoRootsTerminal is on a real terminal, into which a process
// that keeps it can type.
func TestNobodyTypesIntoRootsTerminal(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for how, want := range map[string]struct{ typed, terminal bool }{
		"runuser": {typed: true, terminal: true}, "pipes": {}, "terminal": {terminal: true},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			own, process := terminal.Open(t)
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", how)
			cmd.Env = []string{envRole + "=root", "SECRET=of-root"}
			var said bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = process, process, &said
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Run(); err != nil {
				t.Fatal(err, said.String())
			}
			shown := make([]byte, 4096)
			if err := own.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			n, _ := own.Read(shown) // nothing, where nothing was printed
			said.Write(shown[:n])
			if got := strings.Contains(said.String(), "opened /dev/tty: true"); got != want.terminal {
				t.Errorf("it opens /dev/tty: %v, want %v", got, want.terminal)
			}
			if strings.Contains(said.String(), "of-root") || strings.Contains(said.String(), "has /etc") || !strings.Contains(said.String(), "variables: PATH=") {
				t.Errorf("it was given %s", said.String())
			}
			// What root's shell would read now.
			waiting, err := unix.IoctlGetInt(int(process.Fd()), unix.TIOCINQ)
			if err != nil || (waiting > 0) != want.typed {
				t.Errorf("%d characters wait for root's shell (%v), want some: %v", waiting, err, want.typed)
			}
		})
	}
}

func TestRunHandsOnWhatAPersonGives(t *testing.T) {
	t.Parallel()
	needRoot(t)
	var out, errOut bytes.Buffer
	err := rights.Run(t.Context(), stranger.Command(t.Context(), "sh", "-c", "cat; id -u >&2; exit 3"),
		rights.Streams{In: strings.NewReader("typed"), Out: &out, Err: &errOut})
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 3 {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"typed", "4242\n"}, []string{out.String(), errOut.String()}); diff != "" {
		t.Error(diff)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	cmd := stranger.Command(ctx, "sh", "-c", "echo runs; exec sleep 600")
	err := rights.Run(ctx, cmd, rights.Streams{Out: writerFunc(func(p []byte) { cancel(); out.Write(p) }), Err: &out})
	if err == nil || out.String() != "runs\n" {
		t.Errorf("%v, %q", err, out.String())
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
