// Package integration_test tests a whole server in process, with real NATS and
// a real API on real SQLite, against simulated devices.
package integration_test

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
)

var errStillThere = errors.New("it is still there")

func TestMain(m *testing.M) {
	// The libraries' logs are process-wide and would end up between the tests'.
	capture.Install(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}
