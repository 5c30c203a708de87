package podman

import "time"

// SetPatience replaces what podman is given to answer.
func (c *Client) SetPatience(d time.Duration) { c.look, c.work = d, d }

// SetExitPatience replaces what podman is given to note how a command ended.
func (c *Client) SetExitPatience(d time.Duration) { c.exit = d }

// ErrNoCode: podman does not say how a command ended.
var ErrNoCode = errNoCode

// Generate is generate.
var Generate = generate
