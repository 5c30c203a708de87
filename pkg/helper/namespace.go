package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errNamespace: the namespaces of a container cannot be entered.
var errNamespace = errors.New("the container cannot be entered")

// openNetwork opens the network namespace of a container. Its process is what it claims to
// be if the kernel counts it to the container's control group: another process may have
// the number by now.
func openNetwork(r *request) (*os.File, error) {
	process := "/proc/" + strconv.Itoa(r.PID)
	network, err := os.Open(process + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNamespace, err)
	}
	if err := belongs(process+"/cgroup", r.Container); err != nil {
		network.Close()
		return nil, err
	}
	return network, nil
}

// belongs checks that a process is in the control group that podman made for a container.
func belongs(path, container string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", errNamespace, err)
	}
	defer file.Close()
	groups, err := io.ReadAll(io.LimitReader(file, 64<<10))
	if err != nil {
		return fmt.Errorf("%w: %w", errNamespace, err)
	}
	if !strings.Contains(string(groups), "libpod-"+container) {
		return fmt.Errorf("%w: its process has ended", errNamespace)
	}
	return nil
}

// ownerOf returns the user namespace that a network namespace belongs to, or nil when
// that is this process's own.
func ownerOf(network *os.File) (*os.File, error) {
	fd, err := unix.IoctlRetInt(int(network.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("%w: finding its user namespace: %w", errNamespace, err)
	}
	owner := os.NewFile(uintptr(fd), "user namespace")
	theirs, err := owner.Stat()
	ours, oursErr := os.Stat("/proc/self/ns/user")
	if err = errors.Join(err, oursErr); err != nil {
		owner.Close()
		return nil, fmt.Errorf("%w: %w", errNamespace, err)
	}
	if os.SameFile(theirs, ours) {
		owner.Close()
		return nil, nil
	}
	return owner, nil
}

// dialInside connects to a port inside of a network namespace, at the loopback addresses.
// A socket belongs to the namespace of the thread that made it, so the thread goes there,
// and ends: nothing may bring it back.
func dialInside(ctx context.Context, network *os.File, port uint16) (*net.TCPConn, error) {
	if isOwn(network) {
		conn, err := dialLoopback(ctx, port)
		tcp, _ := conn.(*net.TCPConn)
		return tcp, err
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("%w: %w", errNamespace, err)}
			return
		}
		conn, err := dialLoopback(ctx, port)
		done <- result{conn, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	conn, _ := r.conn.(*net.TCPConn)
	return conn, nil
}

// isOwn reports whether a network is that of this process: the device's, which a container may
// have, and which the account may not enter another time.
func isOwn(network *os.File) bool {
	theirs, err := network.Stat()
	ours, oursErr := os.Stat("/proc/thread-self/ns/net")
	return err == nil && oursErr == nil && os.SameFile(theirs, ours)
}

func dialLoopback(ctx context.Context, port uint16) (net.Conn, error) {
	var dialer net.Dialer
	number := strconv.Itoa(int(port))
	conn, err := dialer.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", number))
	if errors.Is(err, syscall.ECONNREFUSED) {
		if six, sixErr := dialer.DialContext(ctx, "tcp6", net.JoinHostPort("::1", number)); sixErr == nil {
			return six, nil
		}
	}
	return conn, err
}
