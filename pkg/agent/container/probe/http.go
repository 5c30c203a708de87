package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// maxHeader bounds the header of an answer in bytes.
const maxHeader = 64 << 10

// http asks for a page, on a connection of its own. An http.Client would keep it, and log
// what comes on it that nobody asked for.
func (c *Checks) http(ctx context.Context, t *Target, p *container.HTTPProbe) error {
	request, err := httpRequest(ctx, p)
	if err != nil {
		return fmt.Errorf("path %s: %w", clip(p.Path, maxShown), err)
	}
	conn, err := c.dial(ctx, t, p.Port)
	if err != nil {
		return err
	}
	defer conn.Close()
	status, err := exchange(ctx, conn, p.TLS, request)
	switch {
	case err != nil:
		return fmt.Errorf("%s of port %d: %w", clip(p.Path, maxShown), p.Port, heard(err))
	case status < http.StatusOK || status >= http.StatusBadRequest:
		return fmt.Errorf("%s of port %d answered with status %d", clip(p.Path, maxShown), p.Port, status)
	}
	return nil
}

func httpRequest(ctx context.Context, p *container.HTTPProbe) (*http.Request, error) {
	target := url.URL{Scheme: "http", Host: fmt.Sprintf("localhost:%d", p.Port)}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String()+p.Path, nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	request.Header.Set("User-Agent", "fleet-probe")
	for i := 0; i+1 < len(p.Header); i += 2 {
		if http.CanonicalHeaderKey(p.Header[i]) == "Host" {
			request.Host = p.Header[i+1]
			continue
		}
		request.Header.Set(p.Header[i], p.Header[i+1])
	}
	return request, nil
}

// exchange sends a request and returns the status of the answer.
func exchange(ctx context.Context, raw net.Conn, secure bool, request *http.Request) (status int, err error) {
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn := raw
	if secure {
		// As Kubernetes does: it is a question to a neighbour.
		conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
	}
	if err := request.Write(conn); err != nil {
		return 0, err
	}
	// The body is not closed: that would read it, and it may have no end.
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxHeader)), request) //nolint:bodyclose // see above
	if err != nil {
		return 0, err
	}
	return response.StatusCode, nil
}

// heard is an error whose text may repeat what a container said.
func heard(err error) error {
	return errors.New(clip(err.Error(), maxShown)) //nolint:err113 // nothing is to be matched
}
