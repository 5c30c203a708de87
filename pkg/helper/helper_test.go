//go:build linux

package helper_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/test/wait"
)

const envContained, envInside = "FLEET_TEST_CONTAINED", "FLEET_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(envContained) != "" {
		contained()
		return
	}
	if os.Getenv(envInside) != "" {
		if err := helper.ServeInside(context.Background(), os.NewFile(4, "connection"), slog.New(slog.DiscardHandler)); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// contained is what runs in a container of these tests: it says on which port it echoes,
// once it may, and ends with its input.
func contained() {
	fatal := func(err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	fatal(err)
	lo, err := unix.NewIfreq("lo")
	fatal(err)
	lo.SetUint16(unix.IFF_UP)
	fatal(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	fatal(err)
	go func() {
		for {
			conn, err := listener.Accept()
			fatal(err)
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// id is that of the container of a test.
func id(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("%064x", t.Name())[:64]
}

// start runs contained with namespaces of its own, in a control group that is named as
// podman names it.
func start(t *testing.T, namespaces uintptr) (pid int, port uint16) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("%v: namespaces and control groups need root", errors.ErrUnsupported)
	}
	group := filepath.Join(unified(t), "libpod-"+id(t))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("%v: %v", errors.ErrUnsupported, err)
	}
	directory, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envContained+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, UseCgroupFD: true, CgroupFD: int(directory.Fd())}
	if namespaces&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	n, atoiErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || atoiErr != nil {
		t.Fatalf("the container says %q: %v", line, err)
	}
	return cmd.Process.Pid, uint16(n)
}

// unified is where control groups of version 2 are.
func unified(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Skipf("%v: no control groups of version 2", errors.ErrUnsupported)
	return ""
}

// serve runs a server until the test ends.
func serve(t *testing.T, s *helper.Server) *helper.Client {
	t.Helper()
	listener := listen(t)
	s.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &helper.Client{Socket: listener.Addr().String()}
}

func listen(t *testing.T) *net.UnixListener {
	t.Helper()
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

func TestDialReachesPortsInsideTheContainerAlone(t *testing.T) {
	pid, port := start(t, syscall.CLONE_NEWNET)
	client := serve(t, &helper.Server{})
	echoes(t, client, pid, port)
	if outside, err := new(net.Dialer).DialContext(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		outside.Close()
		t.Error("the port is reached from outside, too: this test shows nothing")
	}
	if _, err := dialer(t, client).Dial(t.Context(), id(t), pid, port+1); !errors.Is(err, helper.ErrRefused) {
		t.Errorf("a port that nothing listens on: %v", err)
	}
}

func TestDialWantsTheProcessOfTheContainer(t *testing.T) {
	pid, port := start(t, syscall.CLONE_NEWNET)
	client := serve(t, &helper.Server{})
	for name, ask := range map[string]struct {
		id  string
		pid int
	}{
		"another container": {strings.Repeat("0", 64), pid},
		"another process":   {id(t), os.Getpid()},
		"no process":        {id(t), 1 << 30},
		"no id":             {"", pid},
		"the first process": {id(t), 1},
	} {
		if conn, err := dialer(t, client).Dial(t.Context(), ask.id, ask.pid, port); !errors.Is(err, helper.ErrUnavailable) {
			t.Errorf("%s: %v, %v", name, conn, err)
		}
	}
}

// enter starts programs inside of user namespaces, and says which.
func enter(t *testing.T, started chan<- *exec.Cmd) func(userns, end *os.File) error {
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	return func(userns, end *os.File) error {
		cmd := exec.Command("nsenter", "--user=/proc/self/fd/3", "--preserve-credentials", "--", os.Args[0]) //nolint:noctx // it ends with its connection
		cmd.Env = append(os.Environ(), envInside+"=1")
		cmd.ExtraFiles, cmd.Stderr = []*os.File{userns, end}, t.Output()
		if err := cmd.Start(); err != nil {
			return err
		}
		started <- cmd
		all.Go(func() { _ = cmd.Wait() })
		return nil
	}
}

// dialer has no sockets in store.
func dialer(t *testing.T, client *helper.Client) *helper.Dialer {
	t.Helper()
	d := &helper.Dialer{Client: client}
	t.Cleanup(d.Close)
	return d
}

// echoes checks that what listens at a port of a container is what contained runs.
func echoes(t *testing.T, client *helper.Client, pid int, port uint16) {
	t.Helper()
	conn, err := dialer(t, client).Dial(t.Context(), id(t), pid, port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte("ping"))
	back := make([]byte, 4)
	if _, readErr := io.ReadFull(conn, back); err != nil || readErr != nil || string(back) != "ping" {
		t.Errorf("the container answers %q: %v, %v", back, err, readErr)
	}
}

func TestServerGoesWhereTheContainersAre(t *testing.T) {
	pid, port := start(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWUSER)
	started := make(chan *exec.Cmd, 10)
	client := serve(t, &helper.Server{Enter: enter(t, started)})
	echoes(t, client, pid, port)
	echoes(t, client, pid, port)
	first := <-started
	where, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", first.Process.Pid))
	want, wantErr := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil || wantErr != nil || where != want || len(started) != 0 {
		t.Errorf("it went to %q, want %q: %v, %v; %d more", where, want, err, wantErr, len(started))
	}
	// Owners are those of the device, as before.
	entries, err := client.Look(t.Context(), []string{"/"})
	if err != nil || entries["/"].UID != 0 {
		t.Errorf("the root belongs to %d: %v", entries["/"].UID, err)
	}
	// One that ended is replaced.
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "it ended", 10*time.Second, time.Millisecond, func() error {
		if err := first.Process.Signal(syscall.Signal(0)); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	echoes(t, client, pid, port)
	if len(started) != 1 {
		t.Errorf("%d were started in its place", len(started))
	}
}

func TestServerThatCannotGoThere(t *testing.T) {
	pid, port := start(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWUSER)
	client := serve(t, &helper.Server{Enter: func(_, _ *os.File) error { return errors.New("nsenter is missing") }})
	if _, err := dialer(t, client).Dial(t.Context(), id(t), pid, port); !errors.Is(err, helper.ErrUnavailable) || !strings.Contains(err.Error(), "nsenter is missing") {
		t.Errorf("got %v", err)
	}
}

// stocked is the answer that comes with sockets.
const stocked = `{"outcome":"stocked"}`

// handed is a socket that is connected.
func handed(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	conn, err := net.Dial("tcp4", listener.Addr().String()) //nolint:noctx // to this test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return int(file.Fd())
}

// TestClientBelievesNothing: whatever takes the helper's place gets no more than the time
// of one question.
func TestClientBelievesNothing(t *testing.T) {
	t.Parallel()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unconnected, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range []int{pair[0], pair[1], unconnected} {
			_ = unix.Close(fd)
		}
	})
	for name, say := range map[string]struct {
		message string
		fds     []int
		want    error
	}{
		"nothing":                    {"", nil, helper.ErrUnavailable},
		"garbage":                    {"garbage", nil, helper.ErrUnavailable},
		"too much":                   {`{"outcome":"failed","text":"` + strings.Repeat("x", 4096) + `"}`, nil, helper.ErrUnavailable},
		"no socket":                  {stocked, nil, helper.ErrUnavailable},
		"a file":                     {stocked, []int{int(file.Fd())}, helper.ErrUnavailable},
		"another socket":             {stocked, []int{pair[0]}, helper.ErrUnavailable},
		"a socket that is connected": {stocked, []int{handed(t)}, helper.ErrUnavailable},
		"one that is none":           {stocked, []int{unconnected, pair[0]}, helper.ErrUnavailable},
		"more than there may be":     {stocked, slices.Repeat([]int{unconnected}, 9), helper.ErrUnavailable},
		"an unknown outcome":         {`{"outcome":"perhaps"}`, nil, helper.ErrUnavailable},
		"it failed":                  {`{"outcome":"failed","text":"a\u001b[31mb\nc"}`, nil, helper.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := dialer(t, hands(t, say.message, say.fds...)).Dial(t.Context(), strings.Repeat("0", 64), 2, 80)
			if !errors.Is(err, say.want) || conn != nil {
				t.Errorf("got %v, %v", conn, err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("its words are repeated as they are: %q", err)
			}
		})
	}
}

func TestClientWaitsNoLongerThanItsCaller(t *testing.T) {
	t.Parallel()
	listener := listen(t)
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	client := &helper.Client{Socket: listener.Addr().String()}
	if _, err := dialer(t, client).Dial(ctx, strings.Repeat("0", 64), 2, 80); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a helper that says nothing: %v", err)
	}
	client.Socket = filepath.Join(t.TempDir(), "absent")
	if _, err := dialer(t, client).Dial(t.Context(), strings.Repeat("0", 64), 2, 80); !errors.Is(err, helper.ErrUnavailable) || !strings.Contains(err.Error(), "doctor --fix") {
		t.Errorf("no helper: %v", err)
	}
}
