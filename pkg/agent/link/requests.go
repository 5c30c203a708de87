package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrBody: a body arrived that is not the one asked for.
var ErrBody = errors.New("the body is not the one that the manifest names")

// Snapshot asks for the manifest. Errors are a *wire.Refusal, wrap
// wire.ErrManifest or wire.ErrPayload, or come from the transport. Beside the
// first two there is a reply all the same, whose Nonce counts.
func (l *Link) Snapshot(ctx context.Context, req wire.SnapshotRequest) (*wire.SnapshotReply, error) {
	payload, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encoding a snapshot request: %w", err)
	}
	data, err := l.request(ctx, wire.KindSnapshot, payload)
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
	if reply.Status != wire.SnapshotRetryLater {
		l.credentials.Answered()
	}
	if !reply.Time.IsZero() {
		l.ahead.Store(new(time.Now().Round(0).Sub(reply.Time))) // Round: as the system's clock shows it
	}
	return &reply, nil
}

// Body fetches a body of a known size piece by piece and verifies its hash.
// Errors are a *wire.Refusal, wrap ErrBody, or come from the transport.
func (l *Link) Body(ctx context.Context, hash string, size int) ([]byte, error) {
	if size <= 0 || size > wire.MaxScoreSize {
		return nil, fmt.Errorf("fetching a body: %w: size %d", ErrBody, size)
	}
	body := make([]byte, 0, size)
	for len(body) < size {
		piece, err := l.piece(ctx, hash, len(body), size)
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

func (l *Link) piece(ctx context.Context, hash string, offset, size int) ([]byte, error) {
	payload, err := json.Marshal(wire.BodyRequest{Hash: hash, Offset: offset})
	if err != nil {
		return nil, err
	}
	data, err := l.request(ctx, wire.KindBody, payload)
	if err != nil {
		return nil, err
	}
	reply, err := wire.DecodeReply[wire.BodyReply](wire.KindBody, data)
	switch {
	case err != nil:
		return nil, err
	case reply.Error != nil:
		return nil, reply.Error
	case reply.Size != size || len(reply.Data) == 0 || offset+len(reply.Data) > size:
		return nil, ErrBody
	}
	return reply.Data, nil
}

// Secret fetches the content of a Secret that a score in the manifest names.
// Errors are as for SendState.
func (l *Link) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	payload, err := json.Marshal(wire.SecretRequest{Namespace: namespace, Name: name})
	if err != nil {
		return nil, fmt.Errorf("encoding a request for a Secret: %w", err)
	}
	data, err := l.request(ctx, wire.KindSecret, payload)
	if err != nil {
		return nil, fmt.Errorf("fetching Secret %s: %w", name, err)
	}
	reply, err := wire.DecodeReply[wire.SecretReply](wire.KindSecret, data)
	if err != nil {
		return nil, fmt.Errorf("fetching Secret %s: %w", name, err)
	}
	if reply.Error != nil {
		return nil, fmt.Errorf("fetching Secret %s: %w", name, reply.Error)
	}
	return reply.Data, nil
}

// Registry fetches credentials of the gateway's image registry. Errors are as
// for SendState.
func (l *Link) Registry(ctx context.Context) (*wire.RegistryReply, error) {
	data, err := l.request(ctx, wire.KindRegistry, []byte("{}"))
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
func (l *Link) SendInfo(ctx context.Context, payload []byte) error {
	return l.report(ctx, wire.KindInfo, payload)
}

// SendState sends an encoded wire.DeploymentState. Errors are a *wire.Refusal,
// wrap wire.ErrPayload, or come from the transport.
func (l *Link) SendState(ctx context.Context, payload []byte) error {
	return l.report(ctx, wire.KindState, payload)
}

func (l *Link) report(ctx context.Context, kind wire.Kind, payload []byte) error {
	data, err := l.request(ctx, kind, payload)
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
func (l *Link) Heartbeat(h wire.Heartbeat) error {
	payload, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encoding a heartbeat: %w", err)
	}
	if err := l.publish(wire.KindHeartbeat, payload); err != nil {
		return fmt.Errorf("sending a heartbeat: %w", err)
	}
	return nil
}
