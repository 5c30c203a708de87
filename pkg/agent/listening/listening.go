// Package listening finds out who listens on a port of the device, with no rights: by what the
// kernel tells everybody of sockets, the account and the control group. That of a service of
// systemd has its name. It may be imported by drivers of the agent.
package listening

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is one that listens.
type Socket struct {
	// UID is the account that made it.
	UID uint32
	// Group is the number of its control group; 0 when the kernel does not tell.
	Group uint64
}

// Parts of the kernel's interface, see linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	diagCgroupID     = 21
	tcpListen        = 10
	udpUnconnected   = 7
	requestSize      = 56
	answerSize       = 72
	// Where an answer has the port and the account.
	portAt, uidAt = 4, 64
)

const (
	askTimeout = 2 * time.Second
	maxAnswer  = 64 << 10
)

var errShort = errors.New("the kernel's answer about sockets is too short")

// Find returns a socket that listens on a port, or false.
func Find(port uint16, udp bool) (s Socket, found bool, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if s, found, err = find(family, port, udp); found || err != nil {
			return s, found, err
		}
	}
	return s, false, nil
}

func find(family byte, port uint16, udp bool) (found Socket, ok bool, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return found, false, fmt.Errorf("asking the kernel about sockets: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(askTimeout))
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.Sendto(fd, request(family, udp), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		return found, false, fmt.Errorf("asking the kernel about sockets: %w", err)
	}
	buffer := make([]byte, maxAnswer)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return found, false, fmt.Errorf("asking the kernel about sockets: %w", err)
		}
		s, ok, done, err := read(buffer[:n], port)
		if ok || done || err != nil {
			return s, ok, err
		}
	}
}

// request asks for the sockets of a family that listen.
func request(family byte, udp bool) []byte {
	protocol, state := byte(unix.IPPROTO_TCP), tcpListen
	if udp {
		protocol, state = unix.IPPROTO_UDP, udpUnconnected
	}
	const header = unix.NLMSG_HDRLEN
	m := make([]byte, header+requestSize)
	order := binary.NativeEndian
	order.PutUint32(m[0:], uint32(len(m)))
	order.PutUint16(m[4:], sockDiagByFamily)
	order.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m[header], m[header+1] = family, protocol
	order.PutUint32(m[header+4:], 1<<state)
	return m
}

// read looks for a port in messages of the kernel.
func read(data []byte, port uint16) (s Socket, found, done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return s, false, false, err
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return s, false, true, nil
		case unix.NLMSG_ERROR:
			return s, false, true, errors.New("the kernel does not tell about sockets")
		}
		if len(m.Data) < answerSize {
			return s, false, false, errShort
		}
		if binary.BigEndian.Uint16(m.Data[portAt:]) == port {
			return Socket{UID: binary.NativeEndian.Uint32(m.Data[uidAt:]), Group: group(m.Data[answerSize:])}, true, false, nil
		}
	}
	return s, false, false, nil
}

// group finds the number of the control group among attributes.
func group(attributes []byte) uint64 {
	const header = unix.NLA_HDRLEN
	for len(attributes) >= header {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < header || length > len(attributes) {
			return 0
		}
		if binary.NativeEndian.Uint16(attributes[2:]) == diagCgroupID && length >= header+8 {
			return binary.NativeEndian.Uint64(attributes[header:])
		}
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
	return 0
}

// cgroups is where control groups are.
const cgroups = "/sys/fs/cgroup"

// String names a socket's service, if it is of one, and its account.
func (s Socket) String() string {
	account := strconv.FormatUint(uint64(s.UID), 10)
	if u, err := user.LookupId(account); err == nil {
		account = u.Username
	}
	if unit := s.unit(cgroups); unit != "" {
		return unit + " of account " + account
	}
	return "a program of account " + account
}

// unit is the unit of systemd in whose control group the socket was made; empty for none.
func (s Socket) unit(root string) (name string) {
	if s.Group == 0 {
		return ""
	}
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // what cannot be seen is not it
		}
		if info, err := d.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Ino == s.Group {
				name = unitOf(path)
				return fs.SkipAll
			}
		}
		return nil
	})
	return name
}

// unitOf is the last part of a path that is a service or a scope.
func unitOf(path string) string {
	for ; path != "." && path != "/"; path = filepath.Dir(path) {
		if base := filepath.Base(path); strings.HasSuffix(base, ".service") || strings.HasSuffix(base, ".scope") {
			return base
		}
	}
	return ""
}
