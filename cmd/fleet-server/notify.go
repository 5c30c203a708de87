package main

import (
	"os"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
)

const notifySocket = "NOTIFY_SOCKET"

// notifier tells systemd how the server is. Without systemd it does nothing.
//
// The API server's library notifies by itself: it says READY as soon as its
// port is open, before anything that fleet needs is there, and then forgets
// the socket. So the notifier hides the socket until it speaks itself.
type notifier struct {
	socket string
	mu     *sync.Mutex // guards the variable in the environment
}

func newNotifier() notifier {
	n := notifier{socket: os.Getenv(notifySocket), mu: &sync.Mutex{}}
	_ = os.Unsetenv(notifySocket) // fails for malformed names only
	return n
}

func (n notifier) send(state string) {
	if n.socket == "" {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = os.Setenv(notifySocket, n.socket)
	_, _ = daemon.SdNotify(true, state) // systemd is gone: nothing to tell
}
