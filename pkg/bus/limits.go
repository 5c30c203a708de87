package bus

import (
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Accounts of a NATS server, the embedded one as well as others.
const (
	// AccountDevices is that of the devices. It has no JetStream.
	AccountDevices = "DEV"
	// AccountCore has the buckets.
	AccountCore = "CORE"
	// AccountSystem is NATS' own: it ends connections.
	AccountSystem = "SYS"
)

// ServerInbox is the prefix of what the server's own connections are answered to. No device may
// hear it, and no reader of the buckets.
const ServerInbox = "_INBOX_server"

// Limits of a NATS server. They are server-wide and bind the server's own connections
// too, so they are as large as those need. What a device may send is bounded by the
// device API.
const (
	MaxPayload       = wire.MaxReply
	MaxSubscriptions = 64
	MaxControlLine   = 1 << 10
	// MaxPending is how much may wait for a reader until its connection ends. It is
	// for the server's own connections, which all devices send to: were it small, a
	// device could end them with some long messages while the processors are busy.
	MaxPending = 64 << 20
	// MaxUnread is how much a device may leave unread: far below three quarters of MaxPending,
	// where NATS makes whoever answers it wait, and with it all others.
	MaxUnread = 2 << 20
	// AuthTimeout is for handshakes and what follows: a slow device on a slow link needs it.
	AuthTimeout = 20 * time.Second
	// PingInterval is how often a connection that says nothing is asked. Heartbeats are
	// more frequent, and the system notices what is not there any more. It is long
	// because NATS looks at each connection as often.
	PingInterval = 10 * time.Minute
	// MaxMemoryStore holds the heartbeat bucket, in bytes: under 200 a device.
	MaxMemoryStore = 64 << 20
)
