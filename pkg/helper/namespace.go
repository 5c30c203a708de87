package helper

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

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

// socketsInside makes sockets of a network namespace.
func socketsInside(network *os.File, n int, six bool) (fds []int, err error) {
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	within(network, func(entering error) {
		for err = entering; err == nil && len(fds) < n; {
			var fd int
			if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err == nil {
				fds = append(fds, fd)
			}
		}
	})
	if err != nil {
		closeFDs(fds)
		return nil, err
	}
	return fds, nil
}

// within does something inside of a network namespace, or with the error that there was on
// the way there. A socket belongs to the namespace of the thread that made it, so the thread
// goes there, and ends: nothing may bring it back.
func within(network *os.File, do func(entering error)) {
	if isOwn(network) {
		do(nil)
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("%w: %w", errNamespace, err)
		}
		do(err)
	}()
	<-done
}

// isOwn reports whether a network is that of this process: the device's, which a container may
// have, and which the account may not enter another time.
func isOwn(network *os.File) bool {
	theirs, err := network.Stat()
	ours, oursErr := os.Stat("/proc/thread-self/ns/net")
	return err == nil && oursErr == nil && os.SameFile(theirs, ours)
}
