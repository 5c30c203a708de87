package podman

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// errUnheld: podman does not wait for the body of a request.
var errUnheld = fmt.Errorf("%w: it answers before it was asked", errProtocol)

// ping asks podman whether it is there.
func (c *Client) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.look)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://d/_ping", http.NoBody)
	if err != nil {
		return err
	}
	response, err := c.conn.Client.Do(r)
	if err != nil {
		return c.gaveUp(ctx, err)
	}
	defer response.Body.Close()
	if _, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer)); err != nil {
		return c.gaveUp(ctx, err)
	}
	return nil
}

// gaveUp says why a request had no answer.
func (c *Client) gaveUp(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return c.ended(ctx, request{method: http.MethodGet})
	}
	return c.translate(err, container.ErrUnavailable)
}

// question is the beginning of one whose rest never comes: a login, of which nothing is
// kept, and which is an error without its body.
const question = "POST /auth HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"

// hold asks something and does not finish, until ctx or podman ends. Podman's service, which
// systemd starts for a question, ends seconds after the last one, and its next start would
// delay what is to be done next. To wait for the rest of a question costs it nothing. It
// returns errStreamEnded when podman ends, errUnheld when it does not wait.
func (c *Client) hold(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.find())
	if err != nil {
		return c.gaveUp(ctx, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err = io.WriteString(conn, question); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errStreamEnded
	}
	return errUnheld
}
