package wire

import "slices"

// Kind names a Verb: it is the last token of the subject.
type Kind string

// What a device sends. All but KindHeartbeat are requests whose reply subject
// must be in the session's own inbox.
const (
	// KindSnapshot carries a SnapshotRequest and is answered with a SnapshotReply.
	KindSnapshot Kind = "snapshot"
	// KindBody carries a BodyRequest and is answered with a BodyReply.
	KindBody Kind = "body"
	// KindInfo carries a DeviceInfo and is answered with an Ack.
	KindInfo Kind = "info"
	// KindState carries a DeploymentState and is answered with an Ack.
	KindState Kind = "state"
	// KindHeartbeat carries a Heartbeat; nothing answers it.
	KindHeartbeat Kind = "heartbeat"
	// KindSecret carries a SecretRequest and is answered with a SecretReply.
	KindSecret Kind = "secret"
	// KindRegistry carries a RegistryRequest and is answered with a RegistryReply.
	KindRegistry Kind = "registry"
)

// KindUnknown stands for each kind of message from a device that this version does not
// know. It has no Verb: a newer agent asked, and is told so.
const KindUnknown Kind = "unknown"

// What the server sends unasked. Nothing answers it.
const (
	// KindNudge carries nothing: the session should send a SnapshotRequest.
	KindNudge Kind = "nudge"
	// KindRevoked carries a RevokedNotice, just before the connection is dropped for
	// good.
	KindRevoked Kind = "revoked"
)

// Direction says who sends a Verb.
type Direction string

// Values of Direction.
const (
	// Up: a device sends it to the server.
	Up Direction = "up"
	// Down: the server sends it to one session of a device.
	Down Direction = "down"
)

// Verb is one thing that a device and its server say to each other.
type Verb struct {
	Kind      Kind
	Direction Direction
	// MaxRequest is the longest payload in bytes, MaxReply that of the answer: zero
	// for what is not answered.
	MaxRequest, MaxReply int
	// Rate is how many a device may send a second, Burst how many at once. Bursts
	// cover a device that comes back with the largest manifest: it fetches every body
	// and reports every Deployment. Both are zero for what the server sends.
	Rate  float64
	Burst int
	// Since is the first version that speaks it.
	Since string
}

const (
	kibi = 1 << 10
	// maxAck is the longest Ack: a refusal and its reason.
	maxAck = 8 * kibi
)

// Verbs lists everything that devices and servers say to each other. Permissions,
// bounds, budgets, handlers, metrics and the reference come from it. The rows have
// no field names, so that none can be left out.
var Verbs = []Verb{
	{KindSnapshot, Up, 8 * kibi, MaxReply, 2, 20, "0.1.0"},
	{KindBody, Up, 1 * kibi, MaxReply, 100, 4 * MaxEntries, "0.1.0"},
	{KindInfo, Up, 16 * kibi, maxAck, 1, 10, "0.1.0"},
	{KindState, Up, 16 * kibi, maxAck, 20, 2 * MaxEntries, "0.1.0"},
	{KindHeartbeat, Up, 96, 0, 1, 10, "0.1.0"},
	{KindSecret, Up, 1 * kibi, MaxReply, 20, 2 * MaxEntries, "0.1.0"},
	{KindRegistry, Up, 64, 64 * kibi, 5, 2 * MaxEntries, "0.1.0"},
	{KindNudge, Down, 0, 0, 0, 0, "0.1.0"},
	{KindRevoked, Down, 1 * kibi, 0, 0, 0, "0.1.0"},
}

// Kinds lists what a device sends.
var Kinds = kindsOf(Up)

func kindsOf(d Direction) (kinds []Kind) {
	for _, v := range Verbs {
		if v.Direction == d {
			kinds = append(kinds, v.Kind)
		}
	}
	return kinds
}

// Verb returns the row of a kind. An unknown kind has the zero Verb, which nobody
// may send.
func (k Kind) Verb() Verb {
	if i := slices.IndexFunc(Verbs, func(v Verb) bool { return v.Kind == k }); i >= 0 {
		return Verbs[i]
	}
	return Verb{}
}

// validator is a request that has texts: what a device wrote is checked before anybody
// else has it.
type validator interface {
	// Validate returns an error that wraps ErrPayload unless the request may be acted
	// upon.
	Validate() error
}

// DecodeRequest is Decode for the request of a kind, and checks its texts.
func DecodeRequest[T any](k Kind, payload []byte) (T, error) {
	v, err := Decode[T](payload, k.Verb().MaxRequest)
	if err != nil {
		return v, err
	}
	if request, has := any(&v).(validator); has {
		err = request.Validate()
	}
	return v, err
}

// DecodeReply is Decode for the reply to a kind.
func DecodeReply[T any](k Kind, payload []byte) (T, error) {
	return Decode[T](payload, k.Verb().MaxReply)
}
