package control_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fake struct {
	status  control.Status
	confirm error
}

func (f fake) Status() control.Status { return f.status }

func (f fake) ConfirmEpoch() (control.Confirmation, error) {
	return control.Confirmation{Epoch: "e2", Leaving: []wire.DeploymentRef{{Namespace: "a", Name: "b"}}}, f.confirm
}

// serve serves a fake agent in a directory until the test ends.
func serve(t *testing.T, dir string, agent control.Agent) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, dir, agent, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := control.ReadStatus(ctx, dir); !errors.Is(err, control.ErrNotRunning) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("nothing listens")
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "control.sock"), nil, 0o600); err != nil { // of an agent that was killed
		t.Fatal(err)
	}
	want := control.Status{
		Device: "pi-1", Connected: true, Manifest: wire.Version{Epoch: "e", Term: 1, Seq: 2},
		Conditions:  []wire.Condition{{Type: wire.ConditionPodmanReady, Status: wire.ConditionTrue}},
		Deployments: []wire.DeploymentState{{DeploymentRef: wire.DeploymentRef{Namespace: "a", Name: "b"}, Phase: wire.PhaseRunning}},
	}
	serve(t, dir, fake{status: want})
	got, err := control.ReadStatus(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfirmEpoch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	serve(t, dir, fake{})
	got, err := control.ConfirmEpoch(t.Context(), dir)
	if err != nil || got.Epoch != "e2" || len(got.Leaving) != 1 {
		t.Errorf("got %+v: %v", got, err)
	}
	failing := t.TempDir()
	serve(t, failing, fake{confirm: errors.New("disk full")})
	if _, err := control.ConfirmEpoch(t.Context(), failing); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("got %v", err)
	}
}

func TestNoAgent(t *testing.T) {
	t.Parallel()
	if _, err := control.ReadStatus(t.Context(), t.TempDir()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}
