package bus

import "fleet.nationtech.io/fleet/pkg/wire"

// Permissions are the subjects that a connection may use.
type Permissions struct {
	// Publish and Subscribe are those that it may say and hear.
	Publish, Subscribe []string
}

// DevicePermissions confines a connection to its device's subjects, and to hearing what is
// meant for its own session: a copy of the device has the same key. It returns an error of
// package wire for what is no device or no session.
func DevicePermissions(device, session string) (Permissions, error) {
	up, err := wire.UpAll(device)
	if err != nil {
		return Permissions{}, err
	}
	down, err := wire.DownAll(device, session)
	if err != nil {
		return Permissions{}, err
	}
	inbox, err := wire.InboxPrefix(device, session)
	if err != nil {
		return Permissions{}, err
	}
	return Permissions{Publish: []string{up}, Subscribe: []string{down, inbox + ".>"}}, nil
}
