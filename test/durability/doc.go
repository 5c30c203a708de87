// Package durability cuts the power of a running server, and proves first that
// it would see a loss: the same cuts under a database that does not sync.
package durability
