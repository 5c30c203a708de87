package bus

import "time"

// Proof is what a connection has shown in TLS.
type Proof struct {
	// Key is the SHA-256 of its public key in hex.
	Key string
	// Expires is when its certificate runs out.
	Expires time.Time
	// Address is where it comes from: IP:PORT.
	Address string
}

// Connections are the connections of devices. Its methods do not block and are
// safe for concurrent use. A device that has none is no error.
//
// A session is one run of an agent, see wire.HeaderSession. Each connection
// belongs to one.
type Connections interface {
	// Proof returns what the newest connection of a session has shown, and false
	// when the session has none.
	Proof(device, session string) (Proof, bool)
	// SetCurrent names the session whose connection is dropped last when a device
	// has too many, and drops the connections of the previous one.
	SetCurrent(device, session string)

	// Drop drops every connection of a device.
	Drop(device string)
	// DropKey drops those that were made with a key.
	DropKey(device, key string)
	// DropOtherKeys drops those that were made with another key.
	DropOtherKeys(device, key string)
	// DropUnread drops those that leave too much of what they are sent unread.
	DropUnread(device string)
	// DropExpired drops those whose certificate has run out at now, and returns
	// their devices. TLS looks at a certificate only when a connection begins.
	DropExpired(now time.Time) (devices []string)
	// DropUnproven drops those that were made before a time and are not of their
	// device's current session, and returns their devices.
	DropUnproven(before time.Time) (devices []string)

	// Bar is Drop, and keeps the device out for a while.
	Bar(device string)
	// BarStrays is Bar for what is not of the device's current session: what a copy
	// of a device does is not held against the device. Without a current session
	// all are dropped, and may come back.
	BarStrays(device string)
	// BarSession is Bar for one session.
	BarSession(device, session string)

	// Count is the number of devices that have a connection.
	Count() int
}

// Observer learns when a device connects and when its last connection ends. Its
// methods must not block.
type Observer interface {
	DeviceConnected(device string)
	DeviceDisconnected(device string)
}
