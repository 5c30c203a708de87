package interpreter

import (
	"fmt"
	"net"
	"slices"
	"syscall"
)

// Peer returns the account of whoever is at the other end of a connection: of its
// program, or of who made the socket listen, which is root for systemd's.
func Peer(conn *net.UnixConn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *syscall.Ucred
	if controlErr := raw.Control(func(fd uintptr) {
		credentials, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); controlErr != nil {
		return 0, controlErr
	}
	if err != nil {
		return 0, fmt.Errorf("asking who is at the other end: %w", err)
	}
	return int(credentials.Uid), nil
}

// PeerIs is for Server.Admit: only these accounts may ask.
func PeerIs(uids ...int) func(*net.UnixConn) error {
	return func(conn *net.UnixConn) error {
		uid, err := Peer(conn)
		if err == nil && !slices.Contains(uids, uid) {
			err = fmt.Errorf("account %d may not ask", uid)
		}
		return err
	}
}
