// Package heartbeat says when a device's heartbeats are due.
package heartbeat

import (
	"math/rand/v2"
	"time"
)

// Second is the pause from the first heartbeat, which comes when the agent starts, to
// the second: random, so that devices which start together do not beat in the same
// second from then on.
func Second(now time.Time, interval time.Duration) time.Duration {
	return Next(now, rand.N(interval))
}

// Next is the pause until the next heartbeat, at most an interval, which comes at a
// full second by the system's clock. A server with thousands of devices wakes once a
// second for those of that second, and not for each: to wake costs more than the
// heartbeat does. A clock that is wrong by a part of a second loses that, and nothing
// else.
func Next(now time.Time, interval time.Duration) time.Duration {
	now = now.Round(0) // by the clock that others share, too
	return now.Add(interval).Truncate(time.Second).Sub(now)
}
