package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrRefused: the server does not let the device in. Other errors of an attempt
// are about the way there, or about the server's own certificate.
var ErrRefused = errors.New("the fleet server refuses this device")

// ErrBusy: the server could not do the handshake of TLS, mostly because many devices
// connect at once. It says nothing about the device.
var ErrBusy = errors.New("the fleet server cannot take another connection at this moment")

// alertInternalError is what a server sends that ends a handshake for a reason of its
// own: RFC 8446, section 6.
const alertInternalError = tls.AlertError(80)

const (
	// Bounds of the pause between two attempts to connect.
	minBackoff, maxBackoff = time.Second, 5 * time.Minute
	// rareBackoff replaces maxBackoff after Rarely.
	rareBackoff = time.Hour
	// busyBackoff replaces it for the first busyAttempts while the server is there and
	// busy: after a restart it takes some hundred devices a second, and the last of a
	// few thousand would otherwise pause for minutes while it has nothing to do.
	busyBackoff  = 10 * time.Second
	busyAttempts = 30
)

// failed notes an attempt that did not lead to a connection.
func (l *Link) failed(err error) {
	shown := l.shown.Swap(false)
	switch {
	case busy(err) || !shown && hungUp(err):
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	case refused(err) || shown && hungUp(err):
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	l.onError("connecting failed", err)
	l.credentials.Attempted(err)
}

// refused reports whether the server itself ended the attempt, in NATS' words
// or with an alert of TLS about the certificate that it was shown.
func refused(err error) bool {
	for _, refusal := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	_, ok := alertOf(err)
	return ok
}

// busy reports whether the server ended the attempt for a reason of its own, with an
// alert of TLS.
func busy(err error) bool {
	alert, ok := alertOf(err)
	return ok && alert.Error() == alertInternalError.Error()
}

// alertOf returns the alert of TLS that the server sent. crypto/tls gives it as text.
func alertOf(err error) (alert error, ok bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return nil, false
	}
	return op.Err, true
}

// hungUp reports whether the other side closed the connection. In TLS 1.3 a
// client is done before the server looks at its certificate; what it writes then
// may fail before it reads the alert.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// delay is the pause before the given attempt, see backoff. The client reports
// errors of dialing by a callback, but what comes after, in TLS or from the
// server, only here.
func (l *Link) delay(attempt int) time.Duration {
	<-l.opened
	if err := l.conn.LastError(); err != nil {
		l.failed(err)
	}
	return backoff(attempt, longest(attempt, l.lastError(), l.rare.Load()))
}

// longest is the longest pause before an attempt, after an error of the one before.
func longest(attempt int, err error, rare bool) time.Duration {
	switch {
	case rare:
		return rareBackoff
	case attempt <= busyAttempts && errors.Is(err, ErrBusy):
		return busyBackoff
	}
	return maxBackoff
}

func (l *Link) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastErr
}

// backoff doubles with each attempt, with full jitter, so that a fleet that
// lost its gateway at one moment does not come back at one moment.
func backoff(attempt int, longest time.Duration) time.Duration {
	const doublings = 12 // 1 s doubled 12 times is over an hour
	limit := min(longest, minBackoff<<min(max(attempt-1, 0), doublings))
	return time.Duration(rand.Int64N(int64(limit))) + time.Millisecond
}
