package assigner_test

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// The world of the tests is small, so that things meet.
var (
	deviceNames = []string{"edge-1", "edge-2", "edge-3"}
	refs        = []wire.DeploymentRef{
		{Namespace: "shop", Name: "web"}, {Namespace: "shop", Name: "api"}, {Namespace: "yard", Name: "web"},
	}
	groups = []string{"", "a", "b"}
)

func TestMain(m *testing.M) {
	// Kubernetes' libraries log for the whole process.
	capture.Install(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
