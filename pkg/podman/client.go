// Package podman runs containers with a podman service. It is the only package
// that imports the podman bindings, and implements container.Runtime for
// podman 4.3.1 and later.
//
// The service is a rootless one, usually of another user; the agent only needs
// its socket.
package podman

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/containers/podman/v5/pkg/bindings"
	"github.com/containers/podman/v5/pkg/bindings/system"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Client is a container.Runtime. Its zero value is not usable; see New.
type Client struct {
	find     func() string
	authFile string

	mu   sync.Mutex // guards conn
	conn *connection
}

var _ container.Runtime = (*Client)(nil)

// connection is what bindings.NewConnection returns: a context that carries an
// HTTP client.
type connection struct{ values context.Context }

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
	if c.conn == nil {
		return
	}
	if conn, err := bindings.GetClient(c.conn.values); err == nil {
		conn.Client.CloseIdleConnections()
	}
	c.conn = nil
}

// bind returns ctx with the connection in it, as the bindings want it.
func (c *Client) bind(ctx context.Context) (context.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		socket := c.find()
		// The connection outlives this call, so it must not end with its context.
		values, err := bindings.NewConnection(context.WithoutCancel(ctx), "unix://"+socket)
		if err != nil {
			return nil, unavailable(socket, err)
		}
		closeAfterUse(values)
		c.conn = &connection{values: values}
	}
	return bound{Context: ctx, values: c.conn.values}, nil
}

// closeAfterUse keeps no idle connections. A socket-activated podman exits
// when it is idle, and is kept alive by connections that are not.
func closeAfterUse(values context.Context) {
	conn, err := bindings.GetClient(values)
	if err != nil {
		return
	}
	if t, ok := conn.Client.Transport.(*http.Transport); ok {
		t.DisableKeepAlives = true
	}
}

// bound is a context with the deadline of a call and the values of a connection.
type bound struct {
	context.Context
	values context.Context
}

func (b bound) Value(key any) any {
	if v := b.Context.Value(key); v != nil {
		return v
	}
	return b.values.Value(key)
}

// Info implements container.Runtime.
func (c *Client) Info(ctx context.Context) (container.Info, error) {
	ctx, err := c.bind(ctx)
	if err != nil {
		return container.Info{}, err
	}
	info, err := system.Info(ctx, nil)
	if err != nil {
		return container.Info{}, fmt.Errorf("asking podman about itself: %w", c.translate(err, nil))
	}
	i := container.Info{Version: info.Version.Version}
	if info.Store != nil {
		i.StoreSize, i.StoreUsed = info.Store.GraphRootAllocated, info.Store.GraphRootUsed
	}
	return i, nil
}
