// Package integration_test tests a whole server in process, with real NATS and
// a real API on real SQLite, against simulated devices.
package integration_test

import "errors"

var errStillThere = errors.New("it is still there")
