package agent_test

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// sizes are those of the files of the state directory.
func (d *device) sizes() map[string]int64 {
	d.t.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sizes[path] = info.Size()
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return sizes
}

// heap is what is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// certified makes a device report its certificate as the agent does, which expires after
// some time.
func (d *device) certified(lifetime time.Duration) {
	d.t.Helper()
	now := time.Now()
	d.gateway.status = credential.Status{NotBefore: now, Renewal: now.Add(lifetime / 2), Expires: now.Add(lifetime), Err: errOffline}
	d.health = func(container.Info, error) []wire.Condition {
		s := d.gateway.status
		f := doctor.Facts{Now: time.Now(), GoodTime: now}
		f.Identity.Value = doctor.Identity{NotBefore: s.NotBefore, NotAfter: s.Expires, Renewal: s.Renewal}
		f.Ahead.Err, f.Agent.Value.RenewalError = errOffline, s.Err.Error()
		for _, c := range doctor.Conditions(doctor.Examine(f)) {
			if c.Type == wire.ConditionCertificateCurrent {
				return []wire.Condition{c}
			}
		}
		return nil
	}
	d.restart()
	d.gateway.setOffline(false)
	d.settle()
}

// errNoName is what a resolver that is not there comes to.
var errNoName = errors.New("lookup registry.example.com: no such host")

// For a month there is neither server nor registry nor name server, and the certificate
// expires: nothing stops, nothing starts again, nothing grows; what ends by itself is
// restarted, and a power cut changes nothing.
func TestAMonthOffline(t *testing.T) {
	onDevice(t, func(d *device) {
		d.certified(14 * 24 * time.Hour)
		d.gateway.issue("e1", deployments{web: {"front": nil, "next": nil}})
		d.pass(time.Minute)
		// An update that never arrives: its image cannot be had.
		d.podman.PullFunc = func(context.Context, string) error { return errNoName }
		d.gateway.issue("e1", deployments{web: {"front": nil, "next": fromImage("registry.example.com/app:2")}})
		d.pass(time.Minute)
		d.gateway.setOffline(true)
		d.pass(24 * time.Hour)
		d.podman.Calls()
		files, memory := d.sizes(), heap()
		status := d.agent.Status()
		for range 30 {
			d.pass(24 * time.Hour)
			d.expectCalls()
		}
		if diff := cmp.Diff(files, d.sizes()); diff != "" {
			t.Errorf("files changed: %s", diff)
		}
		if now := heap(); now > memory+1<<20 {
			t.Errorf("the heap grew from %d to %d bytes", memory, now)
		}
		after := d.agent.Status()
		if diff := cmp.Diff(status.Deployments, after.Deployments); diff != "" {
			t.Errorf("reports changed: %s", diff)
		}
		for _, c := range after.Conditions {
			if bad := c.Status != wire.ConditionTrue; c.Type == wire.ConditionCertificateCurrent && !bad || c.Type == wire.ConditionWouldSurviveReboot && bad {
				t.Errorf("condition %+v", c)
			}
		}
		d.podman.Exit("shop_web_front", 1)
		d.pass(time.Minute)
		d.expectCalls("start shop_web_front")
		d.losesPower()
		d.start()
		d.pass(time.Minute)
		d.expectCallsInAnyOrder("start shop_web_front", "start shop_web_next")
	})
}
