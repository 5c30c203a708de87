package deviceclient

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// sessionBytes is the length of a session's id before it is encoded.
const sessionBytes = 16

// Session is one run of a device's agent: the connections of one process share it.
type Session struct {
	Device string
	// ID is a secret that the process shares with the server.
	ID string
}

// NewSession returns a session with a random id.
func NewSession(device string) Session {
	id := make([]byte, sessionBytes)
	_, _ = rand.Read(id) // never fails
	return Session{Device: device, ID: hex.EncodeToString(id)}
}

// Identify is a nats.Option: it makes a connection one of the session.
func (s Session) Identify(o *nats.Options) error {
	inbox, err := wire.InboxPrefix(s.Device, s.ID)
	if err != nil {
		return err
	}
	o.Name, o.InboxPrefix = s.ID, inbox
	return nil
}

// Message is a message of the session. It may have any payload and be changed; see
// Encode.
func (s Session) Message(kind wire.Kind, payload []byte) (*nats.Msg, error) {
	subject, err := wire.UpSubject(s.Device, kind)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: subject, Data: payload, Header: nats.Header{wire.HeaderSession: {s.ID}}}, nil
}

// Encode makes a payload. What is one already is left as it is.
func Encode(v any) ([]byte, error) {
	if raw, ok := v.([]byte); ok {
		return raw, nil
	}
	payload, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding %T: %w", v, err)
	}
	return payload, nil
}
