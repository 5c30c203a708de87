package podman

import "time"

// SetPatience replaces what podman is given to answer.
func (c *Client) SetPatience(d time.Duration) { c.look, c.work = d, d }
