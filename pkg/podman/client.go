// Package podman runs containers with a podman service. It is the only package
// that imports the podman bindings, and implements container.Runtime for
// podman 4.3.1 and later.
//
// The service is a rootless one, usually of another user; the agent only needs
// its socket.
//
// The account that the service runs as is trusted less than the agent: a
// container that breaks out can take the service's place. So every answer has a
// limit in bytes, in items and in time, and nothing of it is repeated at length.
//
// Of the bindings it uses the connection and the types of requests. The typed
// packages beside them (bindings/containers, images, …) decode answers into
// pkg/domain/entities/types, which links a container engine: 24 MB of agent
// instead of 11, and as much resident memory on the device.
package podman

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containers/podman/v5/pkg/bindings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/printable"
)

const (
	// lookTimeout bounds a question, and workTimeout what podman takes to do
	// something: ten seconds to stop a container that does not want to, and more on
	// a slow card. Callers may allow less.
	lookTimeout = 30 * time.Second
	workTimeout = 2 * time.Minute
	// maxLooks bounds the questions that are asked at one time, and so the memory
	// that their answers take.
	maxLooks = 2
)

// Client is a container.Runtime. Its zero value is not usable; see New.
type Client struct {
	find     func() string
	authFile string
	conn     *bindings.Connection
	looks    chan struct{} // a counting semaphore
	monitors monitors
	scopes   *scopes
	version  atomic.Pointer[string] // nil before podman said it
	// look, work and exit are lookTimeout, workTimeout and exitPatience outside of tests.
	look, work, exit time.Duration
}

var _ container.Runtime = (*Client)(nil)

// New returns a Client that connects for each request to the socket whose path
// find returns. authFile has the credentials for pulls; it need not exist.
func New(find func() string, authFile string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", find())
	}
	conn := &bindings.Connection{URI: &url.URL{Scheme: "unix"}, Client: &http.Client{
		Transport: &http.Transport{
			DialContext:        dial,
			DisableCompression: true,
			// A socket-activated podman exits when it is idle, and is kept alive by
			// connections that are not.
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return &Client{find: find, authFile: authFile, conn: conn, looks: make(chan struct{}, maxLooks), scopes: newScopes(), look: lookTimeout, work: workTimeout, exit: exitPatience}
}

// Close closes idle connections.
func (c *Client) Close() { c.conn.Client.CloseIdleConnections() }

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
	// body is encoded as JSON unless it is nil; raw and stream are sent as they are.
	body   any
	raw    []byte
	stream io.Reader
	// limit bounds the answer in bytes; maxAnswer when it is 0.
	limit int64
	// more is how much longer than usual podman may take to do it.
	more time.Duration
	// aside: it changes nothing that List returns.
	aside bool
}

// call sends a request and decodes the answer into reply, which may be nil.
func (c *Client) call(ctx context.Context, r request, reply any) error {
	patience := c.work
	if r.method == http.MethodGet {
		patience = c.look
		select {
		case c.looks <- struct{}{}:
			defer func() { <-c.looks }()
		case <-ctx.Done():
			return c.ended(ctx, r)
		}
	} else if !r.aside {
		c.scopes.changed()
		defer c.scopes.changed()
	}
	ctx, cancel := context.WithTimeout(ctx, patience+r.more)
	defer cancel()
	response, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	err = decode(response.Response, r.limit, reply)
	if ctx.Err() != nil {
		return c.ended(ctx, r)
	}
	return c.translate(err, nil)
}

// ended says why a request was given up. That a question takes too long is the
// fault of podman, and not of what was asked about.
func (c *Client) ended(ctx context.Context, r request) error {
	if r.method == http.MethodGet && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return unavailable(c.find(), errSilent)
	}
	return ctx.Err()
}

// send sends a request and returns the answer, whose body must be closed.
func (c *Client) send(ctx context.Context, r request) (*bindings.APIResponse, error) {
	body := r.stream
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
	response, err := c.conn.DoRequest(ctx, body, r.method, r.path, r.query, r.header, r.values...)
	if ctx.Err() != nil && err != nil {
		return nil, c.ended(ctx, r)
	}
	if err != nil {
		return nil, c.translate(err, nil)
	}
	return response, nil
}

// begin sends a request whose answer goes on for as long as ctx does, and must begin within
// patience unless that is zero. done ends the answer.
func (c *Client) begin(ctx context.Context, r request, patience time.Duration) (response *bindings.APIResponse, done func(), err error) {
	begun, cancel := context.WithCancel(ctx)
	inTime := func() bool { return true }
	if patience > 0 {
		inTime = time.AfterFunc(patience, cancel).Stop
	}
	response, err = c.send(begun, r)
	if !inTime() {
		err = cmp.Or(ctx.Err(), unavailable(c.find(), errSilent))
	}
	if err == nil && response.IsSuccess() {
		return response, func() { _ = response.Body.Close(); cancel() }, nil
	}
	defer cancel()
	if response != nil {
		defer response.Body.Close()
	}
	if err == nil {
		err = cmp.Or(decode(response.Response, 0, nil), fmt.Errorf("%w: status %d", errProtocol, response.StatusCode))
	}
	return nil, nil, c.translate(err, nil)
}

// filters is the query that selects by the given filters.
func filters(f map[string][]string) url.Values {
	data, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("encoding filters: %v", err)) // strings always encode
	}
	return url.Values{"filters": {string(data)}}
}

// maxShort bounds short texts that podman says of itself, maxControllers how many
// controllers of control groups it names.
const maxShort, maxControllers = 64, 32

// Info implements container.Runtime.
func (c *Client) Info(ctx context.Context) (container.Info, error) {
	var info struct {
		Host struct {
			Arch              string
			CgroupControllers []string
			NetworkBackend    string
		}
		Version struct{ Version string }
		Store   struct {
			GraphDriverName, GraphRoot        string
			GraphRootAllocated, GraphRootUsed uint64
		}
	}
	if err := c.call(ctx, request{method: http.MethodGet, path: "/info"}, &info); err != nil {
		return container.Info{}, fmt.Errorf("asking podman about itself: %w", err)
	}
	i := container.Info{
		Version: clip(info.Version.Version, maxShort), Arch: printable.Line(clip(info.Host.Arch, maxShort)), Driver: clip(info.Store.GraphDriverName, maxShort),
		StoreSize: info.Store.GraphRootAllocated, StoreUsed: info.Store.GraphRootUsed,
	}
	c.version.Store(&i.Version)
	i.NoBridge, i.NoShared = noBridge("/", clip(info.Host.NetworkBackend, maxShort)), noShared("/")
	// Empty means that there is none, and nil that podman does not say.
	i.Controllers = info.Host.CgroupControllers[:min(len(info.Host.CgroupControllers), maxControllers)]
	for n, name := range i.Controllers {
		i.Controllers[n] = clip(name, maxShort)
	}
	if root := info.Store.GraphRoot; filepath.IsAbs(root) && len(root) <= maxPath {
		i.StoreRoot = root
	}
	return i, nil
}

// About returns podman's own account of itself, host and storage, for people.
func (c *Client) About(ctx context.Context) (json.RawMessage, error) {
	var about json.RawMessage
	if err := c.call(ctx, request{method: http.MethodGet, path: "/info"}, &about); err != nil {
		return nil, fmt.Errorf("asking podman about itself: %w", err)
	}
	return about, nil
}
