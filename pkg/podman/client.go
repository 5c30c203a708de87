// Package podman runs containers with a podman service. It is the only package
// that imports the podman bindings, and implements container.Runtime for
// podman 4.3.1 and later.
//
// The service is a rootless one, usually of another user; the agent only needs
// its socket.
//
// Of the bindings it uses the connection and the types of requests. The typed
// packages beside them (bindings/containers, images, …) decode answers into
// pkg/domain/entities/types, which links a container engine: 24 MB of agent
// instead of 11, and as much resident memory on the device.
package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/bindings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Client is a container.Runtime. Its zero value is not usable; see New.
type Client struct {
	find     func() string
	authFile string

	mu   sync.Mutex // guards conn
	conn *bindings.Connection
}

var _ container.Runtime = (*Client)(nil)

// New returns a Client that connects, when it is first used, to the socket
// whose path find returns. authFile has the credentials for pulls; it need not
// exist.
func New(find func() string, authFile string) *Client {
	return &Client{find: find, authFile: authFile}
}

// Close closes idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Client.CloseIdleConnections()
	}
	c.conn = nil
}

func (c *Client) connection(ctx context.Context) (*bindings.Connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn, nil
	}
	socket := c.find()
	// The connection outlives this call, so it must not end with its context. But
	// to make it is to ask podman something, which may hang.
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	values, err := bindings.NewConnection(lasting, "unix://"+socket)
	if !stop() {
		err = errSilent
	}
	if err != nil {
		cancel()
		return nil, unavailable(socket, err)
	}
	conn, err := bindings.GetClient(values)
	if err != nil {
		return nil, unavailable(socket, err)
	}
	// A socket-activated podman exits when it is idle, and is kept alive by
	// connections that are not.
	if t, ok := conn.Client.Transport.(*http.Transport); ok {
		t.DisableKeepAlives = true
	}
	c.conn = conn
	return conn, nil
}

// errSilent: podman takes the connection and does not answer.
var errSilent = errors.New("it does not answer in time: see journalctl of the user that runs the workloads")

// request is one call of podman's API, below /libpod.
type request struct {
	method string
	// path has a %s for each of values, which are escaped.
	path   string
	values []string
	query  url.Values
	header http.Header
	// body is encoded as JSON unless it is nil; raw is sent as it is.
	body any
	raw  []byte
}

// call sends a request and decodes the answer into reply, which may be nil.
func (c *Client) call(ctx context.Context, r request, reply any) error {
	response, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return c.translate(response.Process(reply), nil)
}

// send sends a request and returns the answer, whose body must be closed.
func (c *Client) send(ctx context.Context, r request) (*bindings.APIResponse, error) {
	conn, err := c.connection(ctx)
	if err != nil {
		return nil, err
	}
	var body io.Reader
	if r.raw != nil {
		body = bytes.NewReader(r.raw)
	}
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	response, err := conn.DoRequest(ctx, body, r.method, r.path, r.query, r.header, r.values...)
	if ctx.Err() != nil && err != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, c.translate(err, nil)
	}
	return response, nil
}

// filters is the query that selects by the given filters.
func filters(f map[string][]string) url.Values {
	data, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("encoding filters: %v", err)) // strings always encode
	}
	return url.Values{"filters": {string(data)}}
}

// Info implements container.Runtime.
func (c *Client) Info(ctx context.Context) (container.Info, error) {
	var info define.Info
	if err := c.call(ctx, request{method: http.MethodGet, path: "/info"}, &info); err != nil {
		return container.Info{}, fmt.Errorf("asking podman about itself: %w", err)
	}
	i := container.Info{Version: info.Version.Version}
	if info.Store != nil {
		i.Driver, i.StoreRoot = info.Store.GraphDriverName, info.Store.GraphRoot
		i.StoreSize, i.StoreUsed = info.Store.GraphRootAllocated, info.Store.GraphRootUsed
	}
	return i, nil
}
