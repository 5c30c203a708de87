package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// maxHeader bounds the header of an answer in bytes.
const maxHeader = 64 << 10

// http asks for a page.
func (c *Checks) http(ctx context.Context, t *Target, p *container.HTTPProbe) error {
	target := url.URL{Scheme: "http", Host: fmt.Sprintf("localhost:%d", p.Port)}
	if p.TLS {
		target.Scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String()+p.Path, nil)
	if err != nil {
		return fmt.Errorf("path %s: %w", clip(p.Path, maxShown), err)
	}
	request.Header.Set("User-Agent", "fleet-probe")
	for i := 0; i+1 < len(p.Header); i += 2 {
		if http.CanonicalHeaderKey(p.Header[i]) == "Host" {
			request.Host = p.Header[i+1]
			continue
		}
		request.Header.Set(p.Header[i], p.Header[i+1])
	}
	response, err := c.round(t, p.Port, nil, request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode < http.StatusOK || response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s of port %d answered with status %d", clip(p.Path, maxShown), p.Port, response.StatusCode)
	}
	return nil
}

// round sends a request over a connection of its own. protocols is nil for HTTP/1.
func (c *Checks) round(t *Target, port uint16, protocols *http.Protocols, request *http.Request) (*http.Response, error) {
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx, t, port) },
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as Kubernetes does: it is a question to a neighbour
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              protocols,
	}
	response, err := transport.RoundTrip(request)
	switch {
	case err == nil:
		return response, nil
	case errors.Is(err, ErrUnknown), request.Context().Err() != nil:
		return nil, err
	}
	return nil, errors.New(clip(err.Error(), maxShown)) //nolint:err113 // it may repeat what the container said
}
