package link

import "net"

// Dialer is what a Link without one in its Config dials with.
func Dialer() *net.Dialer { return newDialer() }

// Follow reads what a server says, in parts.
func Follow(parts ...string) error {
	var f frames
	for _, part := range parts {
		if err := f.follow([]byte(part)); err != nil {
			return err
		}
	}
	return nil
}
