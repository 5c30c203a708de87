package link

import (
	"net"
	"time"
)

// Longest is the longest pause before an attempt.
func Longest(attempt int, err error, rare bool) time.Duration { return longest(attempt, err, rare) }

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
