package embedserver_test

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
)

func TestMain(m *testing.M) {
	capture.Install(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
