package podman

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// apiError has podman's own words and the kind that callers match.
type apiError struct {
	kind error
	text string
}

func (e *apiError) Error() string { return e.text }

func (e *apiError) Unwrap() error { return e.kind }

// translate turns an error of a request into one of package container. kind
// is what an error that nothing else explains means here; it may be nil.
func (c *Client) translate(err, kind error) error {
	if err == nil {
		return nil
	}
	if isTransport(err) || errors.Is(err, errProtocol) {
		return unavailable(c.find(), err)
	}
	text := strings.TrimSpace(err.Error())
	switch answer, ok := errors.AsType[*refusal](err); {
	case strings.Contains(strings.ToLower(text), "address already in use"):
		kind = container.ErrPortInUse
	case strings.Contains(text, "support has been removed"): // of slirp4netns in podman 6
		kind = container.ErrOutdated
	case strings.Contains(text, "unable to start container") && strings.Contains(text, "already exists"): // at the OCI runtime
		kind = container.ErrOutdated
	case strings.Contains(text, "mounting storage for container"), strings.Contains(text, "layer not known"):
		kind = container.ErrDamaged
	case ok && answer.status == http.StatusNotFound && kind == nil:
		kind = container.ErrNotFound
	}
	if kind == nil {
		return err
	}
	return &apiError{kind: kind, text: text}
}

// ofStorage reports whether podman cannot inspect a container since it cannot read what its
// storage has of it. Elsewhere, some of these words are about other files.
func ofStorage(err error) bool {
	return errors.Is(err, container.ErrDamaged) ||
		slices.ContainsFunc([]string{"graph driver", "readlink", "no such file or directory", "end of JSON input", "invalid character"},
			func(words string) bool { return strings.Contains(err.Error(), words) })
}

// isTransport reports whether podman could not be spoken to, as opposed to
// having refused.
func isTransport(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF)
}

// unavailable says in one line why podman does not answer and what to look at.
func unavailable(socket string, err error) error {
	reason := err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		reason = "the socket does not exist: start podman.socket of the user that runs the workloads, or set podman.socket in agent.yaml"
	case errors.Is(err, fs.ErrPermission):
		reason = "the socket may not be used by this user"
	case errors.Is(err, syscall.ECONNREFUSED):
		reason = "nothing listens on the socket: start podman.socket of the user that runs the workloads"
	}
	return &apiError{kind: container.ErrUnavailable, text: fmt.Sprintf("podman at %s: %s", socket, reason)}
}
