package deviceclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrDisconnected: there is no connection at present.
var ErrDisconnected = errors.New("not connected to the fleet server")

// requestTimeout bounds the wait for a reply, but for Do and Ask.
const requestTimeout = 10 * time.Second

// Client speaks for a session.
type Client struct {
	Session

	conn *nats.Conn
}

// New returns a client that speaks over a connection of the session, see
// Session.Identify. It does not close the connection.
func New(conn *nats.Conn, s Session) *Client { return &Client{Session: s, conn: conn} }

// Do sends a request as it is and returns the payload of the reply. Errors come from
// the transport. ctx bounds the wait.
func (c *Client) Do(ctx context.Context, m *nats.Msg) ([]byte, error) {
	reply, err := c.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, transport(err)
	}
	return reply.Data, nil
}

// Ask sends a request of a kind and decodes the reply, whatever it says: a refusal
// is no error. A request of type []byte is sent as it is; others are encoded. Errors
// wrap wire.ErrPayload or come from the transport. ctx bounds the wait.
func Ask[T any](ctx context.Context, c *Client, kind wire.Kind, request any) (T, error) {
	var none T
	m, err := c.encoded(kind, request)
	if err != nil {
		return none, err
	}
	data, err := c.Do(ctx, m)
	if err != nil {
		return none, err
	}
	return wire.DecodeReply[T](kind, data)
}

// request sends a request that a server takes and returns the payload of the reply.
func (c *Client) request(ctx context.Context, kind wire.Kind, request any) ([]byte, error) {
	m, err := c.encoded(kind, request)
	if err != nil {
		return nil, err
	}
	if most := kind.Verb().MaxRequest; len(m.Data) > most {
		return nil, fmt.Errorf("%w: %d bytes of %s, at most %d are allowed", wire.ErrPayload, len(m.Data), kind, most)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.Do(ctx, m)
}

// encoded is a message whose payload is encoded, see Encode.
func (c *Client) encoded(kind wire.Kind, payload any) (*nats.Msg, error) {
	data, err := Encode(payload)
	if err != nil {
		return nil, err
	}
	return c.Message(kind, data)
}

// Publish sends what nothing answers, as it is. It is lost when there is no
// connection.
func (c *Client) Publish(m *nats.Msg) error { return transport(c.conn.PublishMsg(m)) }

// transport makes every way of having no connection one error.
func transport(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrHeadersNotSupported): // before the first connection: no server has said what it can
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("the fleet server is not ready: %w", err)
	}
	return err
}
