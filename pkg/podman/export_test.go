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

// SetGroups replaces where the kernel shows control groups.
func (c *Client) SetGroups(root string) { c.scopes.root = root }

// Age makes what is remembered older.
func (c *Client) Age(d time.Duration) {
	c.scopes.mu.Lock()
	defer c.scopes.mu.Unlock()
	c.scopes.at = c.scopes.at.Add(-d)
}

// Watches reports whether control groups are watched.
func (c *Client) Watches() bool {
	c.scopes.mu.Lock()
	defer c.scopes.mu.Unlock()
	return c.scopes.kernel != nil
}

// Account is account.
var Account = account
