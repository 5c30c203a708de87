//go:build linux

package helper_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper"
)

// hands answers every question by a message with descriptors, or by nothing.
func hands(t *testing.T, message string, fds ...int) *helper.Client {
	t.Helper()
	return answers(t, func() (string, []int) {
		copies := make([]int, len(fds))
		for i, fd := range fds {
			copied, err := unix.Dup(fd)
			if err != nil {
				t.Error(err)
			}
			copies[i] = copied
		}
		return message, copies
	})
}

// answers answers every question by a message with descriptors, which it closes.
func answers(t *testing.T, answer func() (message string, fds []int)) *helper.Client {
	t.Helper()
	listener := listen(t)
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			message, fds := answer()
			if message != "" {
				_, _, _ = conn.WriteMsgUnix([]byte(message), unix.UnixRights(fds...), nil)
			}
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
			conn.Close()
		}
	}()
	return &helper.Client{Socket: listener.Addr().String()}
}

// TestClientKeepsNoDescriptor: what is handed over with something unfit is closed, too.
func TestClientKeepsNoDescriptor(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	client := hands(t, stocked, int(null.Fd()), int(write.Fd()))
	if conn, err := dialer(t, client).Dial(t.Context(), strings.Repeat("0", 64), 2, 80); !errors.Is(err, helper.ErrUnavailable) {
		t.Errorf("got %v, %v", conn, err)
	}
	write.Close()
	_ = read.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := read.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the other descriptor is open: %v", err)
	}
}

// TestConnectionCannotBeMadeToBlock: flags of a socket belong to all who have it, and
// whoever handed it over may take away the one by which its reader can give up.
func TestConnectionCannotBeMadeToBlock(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	conn, err := dialer(t, hands(t, stocked, fd)).Dial(t.Context(), strings.Repeat("0", 64), 2, uint16(listener.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	theirs := fd
	peer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close() // which says nothing, and reads nothing
	if err := unix.SetNonblock(theirs, false); err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func() error{
		"read":  func() error { _, err := conn.Read(make([]byte, 1)); return err },
		"write": func() error { _, err := conn.Write(make([]byte, 64<<20)); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_ = conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
		done := make(chan error, 1)
		go func() { done <- use() }()
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		case <-ctx.Done():
			peer.Close() // ends what hangs
			<-done
			t.Fatalf("%s does not end at its deadline", name)
		}
	}
	// Nor does it wait for those who do not read, once it is the last to have it.
	if err := unix.SetsockoptLinger(theirs, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	file.Close()
	closed := make(chan error, 1)
	go func() { closed <- conn.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		peer.Close()
		<-closed
		t.Error("it waits to be closed")
	}
}

// TestConnectingCannotBeMadeToBlock: nor can that which makes the connection.
func TestConnectingCannotBeMadeToBlock(t *testing.T) {
	t.Parallel()
	silent, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(silent) })
	if err := errors.Join(unix.Bind(silent, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(silent, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(silent)
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(name.(*unix.SockaddrInet4).Port) //nolint:gosec // a port
	full, cancelFull := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancelFull()
	for full.Err() == nil { // until it takes no more connections, and says nothing
		if conn, err := new(net.Dialer).DialContext(full, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))); err == nil {
			t.Cleanup(func() { conn.Close() })
		}
	}
	for name, blocks := range map[string]bool{"as it should be": false, "made to block": true} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd) //nolint:errcheck // a socket of this test
		if err := unix.SetNonblock(fd, !blocks); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		done := make(chan error, 1)
		d := dialer(t, hands(t, stocked, fd))
		go func() {
			_, err := d.Dial(ctx, strings.Repeat("0", 64), 2, port)
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it waits for longer than its caller", name)
		}
	}
}

// TestSocketsAreInStore: the helper is asked for several at a time, and another run of the
// container has others.
func TestSocketsAreInStore(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var questions atomic.Int32
	client := answers(t, func() (string, []int) {
		questions.Add(1)
		var fds []int
		for range 8 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Error(err)
			}
			fds = append(fds, fd)
		}
		return stocked, fds
	})
	d := dialer(t, client)
	dials := func(pid, n int) {
		t.Helper()
		for range n {
			conn, err := d.Dial(t.Context(), strings.Repeat("0", 64), pid, uint16(listener.Addr().(*net.TCPAddr).Port)) //nolint:gosec // a port
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		}
	}
	for _, tt := range []struct {
		pid, dials int
		questions  int32
	}{{2, 8, 1}, {2, 1, 2}, {3, 1, 3}, {2, 7, 3}} {
		if dials(tt.pid, tt.dials); questions.Load() != tt.questions {
			t.Errorf("%+v: %d questions", tt, questions.Load())
		}
	}
}
