package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// ErrUnsupported: what answers is not a fleet-server of this release.
var ErrUnsupported = errors.New("the server does not know this request: is it an older fleet-server, or another API?")

// Client asks a server. It implements Server.
type Client struct {
	// HTTP has the rights of the operator.
	HTTP *http.Client
	// Host is the URL of the API.
	Host string
}

var _ Server = (*Client)(nil)

// RotateCA implements Server.
func (c *Client) RotateCA(ctx context.Context, req RotateRequest) (RotateReply, error) {
	return ask[RotateReply](ctx, c, pathRotate, req)
}

// PruneCA implements Server.
func (c *Client) PruneCA(ctx context.Context, req PruneRequest) (PruneReply, error) {
	return ask[PruneReply](ctx, c, pathPrune, req)
}

// IssueReader implements Server.
func (c *Client) IssueReader(ctx context.Context, req ReaderRequest) (ReaderReply, error) {
	return ask[ReaderReply](ctx, c, pathReader, req)
}

// Clock implements Server.
func (c *Client) Clock(ctx context.Context, req struct{}) (ClockReply, error) {
	return ask[ClockReply](ctx, c, pathClock, req)
}

// AcceptClock implements Server.
func (c *Client) AcceptClock(ctx context.Context, req struct{}) (ClockReply, error) {
	return ask[ClockReply](ctx, c, pathAcceptClock, req)
}

// Gateway implements Server.
func (c *Client) Gateway(ctx context.Context, req struct{}) (GatewayReply, error) {
	return ask[GatewayReply](ctx, c, pathGateway, req)
}

func ask[Reply any](ctx context.Context, c *Client, path string, req any) (reply Reply, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return reply, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.Host, "/")+path, bytes.NewReader(body))
	if err != nil {
		return reply, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return reply, fmt.Errorf("asking the server: %w: is it running?", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply, fmt.Errorf("asking the server: %w", err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return reply, ErrUnsupported
	}
	if resp.StatusCode != http.StatusOK {
		var f Failure
		if json.Unmarshal(data, &f) != nil || f.Message == "" {
			f.Message = "the server answered " + resp.Status
		}
		return reply, errors.New(f.Message)
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return reply, fmt.Errorf("reading the server's answer: %w", err)
	}
	return reply, nil
}
