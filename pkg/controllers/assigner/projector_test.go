package assigner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// background runs f until the end of the test and waits for it.
func background(t testing.TB, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// follows waits until the bucket holds what the table says, and nothing else.
func follows(t testing.TB, kv jetstream.KeyValue, want map[assignment.Key]wire.Entry) {
	t.Helper()
	encoded := map[string]string{}
	for k, e := range want {
		key, err := wire.DesiredStateKey(k.Device, k.DeploymentRef)
		if err != nil {
			t.Fatal(err)
		}
		value, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		encoded[key] = string(value)
	}
	brokertest.Eventually(t, "the bucket follows the table", func() error {
		if diff := cmp.Diff(encoded, brokertest.Content(t.Context(), t, kv)); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
}

// issuedTo returns what the table says about the small world of the tests.
func issuedTo(table *assignment.Table) map[assignment.Key]wire.Entry {
	issued := map[assignment.Key]wire.Entry{}
	for _, device := range deviceNames {
		for _, ref := range refs {
			k := assignment.Key{Device: device, DeploymentRef: ref}
			if e, ok := table.Issued(k); ok {
				issued[k] = e
			}
		}
	}
	return issued
}

// deploymentOf is a Deployment in its nth version for the devices of a group, or
// for all when that is empty.
func deploymentOf(ref wire.DeploymentRef, group string, version int) assignment.Deployment {
	body := []byte(fmt.Sprintf("%s in version %d", ref, version))
	d := assignment.Deployment{
		DeploymentRef: ref, Accepted: true, Body: body,
		Entry: wire.Entry{DeploymentRef: ref, Type: "PodmanV0", Hash: wire.Sum(body).String(), Size: len(body)},
	}
	if group != "" {
		d.Selector.Requirements = []assignment.Requirement{{Key: "group", Operator: assignment.In, Values: []string{group}}}
	}
	return d
}

func TestProjectorFollowsConcurrentChanges(t *testing.T) {
	t.Parallel()
	kv := brokertest.Start(t, nil).Buckets.DesiredState
	table := assignment.NewTable(nil)
	p := assigner.NewProjector(kv, table, logger(t))
	background(t, p.Run)
	var workers sync.WaitGroup
	for _, device := range deviceNames {
		workers.Go(func() {
			for range 100 {
				group := groups[rand.IntN(len(groups))]
				p.Add(table.SetDevice(assignment.Device{Name: device, Labels: map[string]string{"group": group}}).Keys)
			}
		})
	}
	for _, ref := range refs {
		workers.Go(func() {
			for i := range 100 {
				p.Add(table.SetDeployment(deploymentOf(ref, groups[rand.IntN(len(groups))], i)).Keys)
				if i%10 == 0 {
					p.Add(table.RemoveDeployment(ref).Keys)
				}
			}
		})
	}
	workers.Wait()
	for _, ref := range refs {
		if err := p.Wait(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	// No waiting here: Wait said that the keys are written.
	want := map[string]string{}
	for k, e := range issuedTo(table) {
		value, _ := json.Marshal(e)
		want[fmt.Sprintf("%s.%s.%s", k.Device, k.Namespace, k.Name)] = string(value)
	}
	if diff := cmp.Diff(want, brokertest.Content(t.Context(), t, kv)); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
}

func TestProjectorSweepsWhatTheTableDoesNotHave(t *testing.T) {
	t.Parallel()
	kv := brokertest.Start(t, nil).Buckets.DesiredState
	for _, key := range []string{"edge-1.shop.web", "edge-9.yard.gone"} {
		if _, err := kv.Put(t.Context(), key, []byte("old")); err != nil {
			t.Fatal(err)
		}
	}
	table := assignment.NewTable(nil)
	table.SetDevice(assignment.Device{Name: "edge-1"})
	table.SetDeployment(deploymentOf(refs[0], "", 1))
	p := assigner.NewProjector(kv, table, logger(t))
	background(t, p.Run)
	p.Add(table.Diff(map[assignment.Key]wire.Entry{
		{Device: "edge-1", DeploymentRef: refs[0]}:                                             {},
		{Device: "edge-9", DeploymentRef: wire.DeploymentRef{Namespace: "yard", Name: "gone"}}: {},
	}))
	follows(t, kv, issuedTo(table))
}

var errBus = errors.New("the bus is down")

// brokenBucket fails while it is down.
type brokenBucket struct {
	jetstream.KeyValue
	down     atomic.Bool
	attempts atomic.Int32
}

func (b *brokenBucket) try() error {
	b.attempts.Add(1)
	if b.down.Load() {
		return errBus
	}
	return nil
}

func (b *brokenBucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := b.try(); err != nil {
		return 0, err
	}
	return b.KeyValue.Put(ctx, key, value)
}

func (b *brokenBucket) Purge(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	if err := b.try(); err != nil {
		return err
	}
	return b.KeyValue.Purge(ctx, key, opts...)
}

func TestProjectorTriesAgain(t *testing.T) {
	t.Parallel()
	kv := &brokenBucket{KeyValue: brokertest.Start(t, nil).Buckets.DesiredState}
	if _, err := kv.Put(t.Context(), "edge-1.shop.api", []byte("old")); err != nil {
		t.Fatal(err)
	}
	kv.down.Store(true)
	table := assignment.NewTable(nil)
	table.SetDevice(assignment.Device{Name: "edge-1"})
	table.SetDeployment(deploymentOf(refs[0], "", 1))
	p := assigner.NewProjector(kv, table, logger(t))
	background(t, p.Run)
	p.Add([]assignment.Key{{Device: "edge-1", DeploymentRef: refs[0]}, {Device: "edge-1", DeploymentRef: refs[1]}})

	// Each key is tried, and tried again without anything new to wake it up.
	brokertest.Eventually(t, "a second round", func() error {
		if n := kv.attempts.Load(); n < 1+4 {
			return fmt.Errorf("%d attempts", n)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ref := range refs[:2] {
		if err := p.Wait(ctx, ref); !errors.Is(err, context.Canceled) {
			t.Errorf("waiting for %s, which is not written: %v", ref, err)
		}
	}
	if err := p.Wait(t.Context(), refs[2]); err != nil {
		t.Errorf("waiting for %s, which nothing is about: %v", refs[2], err)
	}
	kv.down.Store(false)
	for _, ref := range refs[:2] {
		if err := p.Wait(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
	follows(t, kv, issuedTo(table))
}

// A change that comes while the same key is being written is not lost, and the
// wait is for the last of them.
func TestProjectorWritesAgainWhatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]error{"after a success": nil, "after a failure": errBus} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kv := &slowBucket{
				KeyValue: brokertest.Start(t, nil).Buckets.DesiredState,
				begun:    make(chan struct{}), proceed: make(chan error),
			}
			table := assignment.NewTable(nil)
			table.SetDevice(assignment.Device{Name: "edge-1"})
			p := assigner.NewProjector(kv, table, logger(t))
			background(t, p.Run)
			p.Add(table.SetDeployment(deploymentOf(refs[0], "", 0)).Keys)
			<-kv.begun // its value is chosen
			p.Add(table.SetDeployment(deploymentOf(refs[0], "", 1)).Keys)
			waited := make(chan error, 1)
			go func() { waited <- p.Wait(t.Context(), refs[0]) }()
			kv.proceed <- first
			<-kv.begun
			select {
			case err := <-waited:
				t.Errorf("the wait ended (%v) before the second value was written", err)
				waited <- err
			default:
			}
			kv.proceed <- nil
			if err := <-waited; err != nil {
				t.Error(err)
			}
			follows(t, kv, issuedTo(table))
		})
	}
}

// slowBucket writes, or fails, when it is told to.
type slowBucket struct {
	jetstream.KeyValue
	begun   chan struct{}
	proceed chan error
}

func (b *slowBucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	b.begun <- struct{}{}
	if err := <-b.proceed; err != nil {
		return 0, err
	}
	return b.KeyValue.Put(ctx, key, value)
}

// fullBucket refuses every write.
type fullBucket struct {
	jetstream.KeyValue // nil: the rest is not called

	tries atomic.Int64
}

func (b *fullBucket) Put(ctx context.Context, _ string, _ []byte) (uint64, error) {
	if b.tries.Add(1) > 100 {
		<-ctx.Done() // the time of the test goes on
	}
	return 0, errors.New("the disk is full")
}

// A bucket that refuses is tried again after pauses that grow.
func TestProjectorPausesAfterFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bucket, table := &fullBucket{}, assignment.NewTable(nil)
		p := assigner.NewProjector(bucket, table, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		table.SetDevice(assignment.Device{Name: "edge-1"})
		p.Add(table.SetDeployment(deploymentOf(refs[0], "", 1)).Keys)
		time.Sleep(time.Minute)
		if n := bucket.tries.Load(); n < 3 || n > 30 {
			t.Errorf("%d tries in a minute", n)
		}
		cancel()
		<-done
	})
}
