//go:build linux

package helper_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper"
)

// hands answers every question by a message with descriptors, or by nothing.
func hands(t *testing.T, message string, fds ...int) *helper.Client {
	t.Helper()
	listener := listen(t)
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			if message != "" {
				_, _, _ = conn.WriteMsgUnix([]byte(message), unix.UnixRights(fds...), nil)
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
	client := hands(t, connected, int(null.Fd()), int(write.Fd()))
	if conn, err := client.Dial(t.Context(), strings.Repeat("0", 64), 2, 80); !errors.Is(err, helper.ErrUnavailable) {
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
	dialed, err := net.Dial("tcp4", listener.Addr().String()) //nolint:noctx // to this test
	if err != nil {
		t.Fatal(err)
	}
	file, err := dialed.(*net.TCPConn).File()
	dialed.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	peer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close() // which says nothing, and reads nothing
	theirs := int(file.Fd())
	conn, err := hands(t, connected, theirs).Dial(t.Context(), strings.Repeat("0", 64), 2, 80)
	if err != nil {
		t.Fatal(err)
	}
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
