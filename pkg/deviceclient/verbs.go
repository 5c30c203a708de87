package deviceclient

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrBody: a body arrived that is not the one asked for.
var ErrBody = errors.New("the body is not the one that the manifest names")

// Snapshot asks for the manifest. Errors are a *wire.Refusal, wrap
// wire.ErrManifest or wire.ErrPayload, or come from the transport. Beside the
// first two there is a reply all the same, whose Nonce counts.
func (c *Client) Snapshot(ctx context.Context, req wire.SnapshotRequest) (*wire.SnapshotReply, error) {
	data, err := c.request(ctx, wire.KindSnapshot, req)
	if err != nil {
		return nil, fmt.Errorf("asking for the manifest: %w", err)
	}
	reply, err := wire.DecodeManifestReply(data)
	if err == nil && reply.Error != nil {
		err = reply.Error
	}
	if err != nil {
		return &reply, fmt.Errorf("asking for the manifest: %w", err)
	}
	return &reply, nil
}

// Body fetches a body of a known size piece by piece and verifies its hash.
// Errors are a *wire.Refusal, wrap ErrBody, or come from the transport.
func (c *Client) Body(ctx context.Context, hash string, size int) ([]byte, error) {
	if size <= 0 || size > wire.MaxScoreSize {
		return nil, fmt.Errorf("fetching a body: %w: size %d", ErrBody, size)
	}
	body := make([]byte, 0, size)
	for len(body) < size {
		piece, err := c.piece(ctx, hash, len(body), size)
		if err != nil {
			return nil, fmt.Errorf("fetching body %.12s: %w", hash, err)
		}
		body = append(body, piece...)
	}
	if wire.Sum(body).String() != hash {
		return nil, fmt.Errorf("fetching body %.12s: %w", hash, ErrBody)
	}
	return body, nil
}

// minPiece is how many bytes a piece has at least that is not the last: else a gateway
// could have a device ask for ever.
const minPiece = 1 << 10

func (c *Client) piece(ctx context.Context, hash string, offset, size int) ([]byte, error) {
	data, err := c.request(ctx, wire.KindBody, wire.BodyRequest{Hash: hash, Offset: offset})
	if err != nil {
		return nil, err
	}
	reply, err := wire.DecodeReply[wire.BodyReply](wire.KindBody, data)
	switch {
	case err != nil:
		return nil, err
	case reply.Error != nil:
		return nil, reply.Error
	case reply.Size != size || offset+len(reply.Data) > size || len(reply.Data) < min(minPiece, size-offset):
		return nil, ErrBody
	}
	return reply.Data, nil
}

// Secret fetches the content of a Secret that the score of a Deployment in the manifest
// names, and the SecretsDigest that it belongs to, if the server tells that. Errors are
// as for SendState.
func (c *Client) Secret(ctx context.Context, ref wire.DeploymentRef, name string) (content map[string][]byte, digest string, err error) {
	data, err := c.request(ctx, wire.KindSecret, wire.SecretRequest{Namespace: ref.Namespace, Deployment: ref.Name, Name: name})
	if err != nil {
		return nil, "", fmt.Errorf("fetching Secret %s: %w", name, err)
	}
	reply, err := wire.DecodeReply[wire.SecretReply](wire.KindSecret, data)
	if err != nil {
		return nil, "", fmt.Errorf("fetching Secret %s: %w", name, err)
	}
	if reply.Error != nil {
		return nil, "", fmt.Errorf("fetching Secret %s: %w", name, reply.Error)
	}
	return reply.Data, reply.Digest, nil
}

// Registry fetches credentials of the gateway's image registry. Errors are as
// for SendState.
func (c *Client) Registry(ctx context.Context) (*wire.RegistryReply, error) {
	data, err := c.request(ctx, wire.KindRegistry, wire.RegistryRequest{})
	if err != nil {
		return nil, fmt.Errorf("fetching credentials for images: %w", err)
	}
	reply, err := wire.DecodeReply[wire.RegistryReply](wire.KindRegistry, data)
	if err == nil && reply.Error != nil {
		err = reply.Error
	}
	if err != nil {
		return nil, fmt.Errorf("fetching credentials for images: %w", err)
	}
	return &reply, nil
}

// SendInfo sends an encoded wire.DeviceInfo. Errors are as for SendState.
func (c *Client) SendInfo(ctx context.Context, payload []byte) error {
	return c.report(ctx, wire.KindInfo, payload)
}

// SendState sends an encoded wire.DeploymentState: both sides compare the bytes by
// their hash. Errors are a *wire.Refusal, wrap wire.ErrPayload, or come from the
// transport.
func (c *Client) SendState(ctx context.Context, payload []byte) error {
	return c.report(ctx, wire.KindState, payload)
}

func (c *Client) report(ctx context.Context, kind wire.Kind, payload []byte) error {
	data, err := c.request(ctx, kind, payload)
	if err != nil {
		return fmt.Errorf("sending %s: %w", kind, err)
	}
	ack, err := wire.DecodeReply[wire.Ack](kind, data)
	if err != nil {
		return fmt.Errorf("sending %s: %w", kind, err)
	}
	if ack.Error != nil {
		return fmt.Errorf("sending %s: %w", kind, ack.Error)
	}
	return nil
}

// Heartbeat says that the device is alive. It is lost when there is no connection.
func (c *Client) Heartbeat(h wire.Heartbeat) error {
	m, err := c.encoded(wire.KindHeartbeat, h)
	if err != nil {
		return err
	}
	if err := c.Publish(m); err != nil {
		return fmt.Errorf("sending a heartbeat: %w", err)
	}
	return nil
}

// OnNudge calls f when the server asks for a snapshot request.
func (c *Client) OnNudge(f func()) error {
	return c.listen(wire.KindNudge, func([]byte) { f() })
}

// OnRevoked calls f with what to do when the server revokes the device. err is
// why the notice does not say.
func (c *Client) OnRevoked(f func(notice wire.RevokedNotice, err error)) error {
	return c.listen(wire.KindRevoked, func(payload []byte) { f(wire.DecodeRequest[wire.RevokedNotice](wire.KindRevoked, payload)) })
}

func (c *Client) listen(kind wire.Kind, f func(payload []byte)) error {
	subject, err := wire.DownSubject(c.Device, c.ID, kind)
	if err != nil {
		return err
	}
	if _, err := c.conn.Subscribe(subject, func(m *nats.Msg) { f(m.Data) }); err != nil {
		return fmt.Errorf("subscribing to %s: %w", kind, err)
	}
	return nil
}
