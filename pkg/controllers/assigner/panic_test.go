package assigner_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A template that panics with what a device has fails on that device.
func TestATemplateThatPanics(t *testing.T) {
	t.Parallel()
	panics := guard.NewPanics()
	_, err := assigner.RenderCarefully(&acceptance.Template{}, panics, logger(t)) // one that New did not make
	if err == nil || !strings.HasPrefix(err.Error(), "panic: ") {
		t.Errorf("it renders with %v", err)
	}
	if n := testutil.ToFloat64(panics.Collectors()[0]); n != 1 {
		t.Errorf("%v panics are counted, want 1", n)
	}
}

// A report that could not be taken for a mistake of the program is taken from the bucket
// later: the device does not send it again.
func TestAReportThatPanics(t *testing.T) {
	t.Parallel()
	buckets := brokertest.Start(t, nil).Buckets
	c := assigner.New(assigner.Config{Buckets: buckets, Metrics: reconcile.NewMetrics(guard.NewPanics()), Logger: logger(t)})
	t.Cleanup(c.ShutDown)
	table, deployment := assignment.NewTable(nil), deploymentOf(refs[0], "", 0)
	table.SetDevice(assignment.Device{Name: "edge-1"})
	table.SetDeployment(deployment)
	key, err := wire.StateKey("edge-1", refs[0])
	if err != nil {
		t.Fatal(err)
	}
	report, err := json.Marshal(wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning, Hash: deployment.Entry.Hash, LastEventAt: time.Unix(1000, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := buckets.State.Put(t.Context(), key, report); err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.WatchReports(watching) }()
	look := c.Next(table)
	stop()
	if err := <-done; err != nil {
		t.Errorf("the watch ended: %v", err)
	}
	if err := look(t.Context()); err != nil {
		t.Fatal(err)
	}
	counts, _, _ := table.Aggregate(refs[0])
	if diff := cmp.Diff(assignment.Counts{Matched: 1, Succeeded: 1}, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}
