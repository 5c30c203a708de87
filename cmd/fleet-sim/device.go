package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/version"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	heartbeatInterval = 30 * time.Second
	snapshotInterval  = 15 * time.Minute
	// Bounds of the pause after an exchange that failed.
	minPause, maxPause = 500 * time.Millisecond, 30 * time.Second
)

// device is one simulated device. It runs in one goroutine, beside those of
// its connection.
type device struct {
	id, token string
	labels    map[string]string
	options   *options
	counters  *counters
	log       *slog.Logger

	link     atomic.Pointer[link.Link] // set once; the summary reads it
	manifest *wire.Manifest
	info     []byte
	// reports are what the server should know, by Deployment.
	reports map[wire.DeploymentRef]*report
}

// report is one report and whether the server has it.
type report struct {
	raw  []byte
	hash string
	gone bool
	sent bool
}

// run enrolls, connects, and lives until ctx ends. Only enrollment can fail.
func (d *device) run(ctx context.Context, startups chan struct{}) error {
	select {
	case startups <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	l, err := d.start(ctx)
	<-startups
	if ctx.Err() != nil && l == nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	d.live(ctx, l)
	return nil
}

// start enrolls and opens the connection.
func (d *device) start(ctx context.Context) (*link.Link, error) {
	key, err := enroll.NewKey()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	inventory := wire.Inventory{
		Hostname: d.id, Arch: runtime.GOARCH, OS: "simulated", CPUCores: 1, MemoryMiB: 512, AgentVersion: version.Version, PodmanVersion: "simulated",
	}
	result, err := enroll.Enroll(ctx, enroll.Request{Server: d.options.server, Token: d.token, Device: d.id, Key: key, Inventory: inventory})
	if err != nil {
		return nil, err
	}
	d.counters.enrolled.Add(1)
	d.reports = map[wire.DeploymentRef]*report{}
	d.info, err = json.Marshal(wire.DeviceInfo{Labels: d.labels, Inventory: inventory, Conditions: []wire.Condition{
		{Type: wire.ConditionPodmanReady, Status: wire.ConditionTrue, Reason: "Simulated"},
	}})
	if err != nil {
		return nil, fmt.Errorf("encoding the device info: %w", err)
	}
	certificate, roots, err := parse(result, key)
	if err != nil {
		return nil, err
	}
	l, err := link.Open(link.Config{Device: d.id, Servers: result.Servers, Certificate: certificate, Roots: roots, Log: d.log.With("device", d.id)})
	if err != nil {
		return nil, err
	}
	d.link.Store(l)
	return l, nil
}

func parse(r *enroll.Result, key any) (tls.Certificate, *x509.CertPool, error) {
	certificate := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(r.Certificate)); block != nil; block, rest = pem.Decode(rest) {
		certificate.Certificate = append(certificate.Certificate, block.Bytes)
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return certificate, nil, fmt.Errorf("parsing the certificate: %w", err)
	}
	certificate.Leaf = leaf
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(r.Root))
	return certificate, roots, nil
}

func (d *device) connected() bool {
	l := d.link.Load()
	if l == nil {
		return false
	}
	_, err := l.Server()
	return err == nil
}

// live does what an agent does: it asks for the manifest when it is connected,
// nudged or tired of waiting, and reports.
func (d *device) live(ctx context.Context, l *link.Link) {
	// The first beat comes at random, so that the fleet does not beat in step.
	beat := time.NewTimer(rand.N(heartbeatInterval))
	defer beat.Stop()
	work := time.NewTimer(snapshotInterval)
	defer work.Stop()
	started, pause, reporting := time.Now(), minPause, false
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			beat.Reset(heartbeatInterval)
			_ = l.Heartbeat(wire.Heartbeat{At: time.Now().Unix(), Uptime: int64(time.Since(started).Seconds())}) // lost like any
			continue
		case <-l.Connected():
			err = d.sync(ctx, l)
		case <-l.Nudges():
			err = d.sync(ctx, l)
		case <-work.C:
			if reporting {
				err = d.flush(ctx, l)
			} else {
				err = d.sync(ctx, l)
			}
		}
		next := jitter(snapshotInterval)
		reporting = false
		switch {
		case err != nil:
			d.counters.errors.Add(1)
			d.log.Debug("exchange failed", "device", d.id, "error", err)
			next, pause = jitter(pause), min(2*pause, maxPause)
		case d.unsent():
			next, reporting = d.options.delay, true
		default:
			pause = minPause
		}
		work.Reset(next)
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// sync asks for the manifest and acts on the answer.
func (d *device) sync(ctx context.Context, l *link.Link) error {
	req := wire.SnapshotRequest{InfoHash: wire.Sum(d.info).String(), StateHash: d.stateHash()}
	if d.manifest != nil {
		req.Have = d.manifest.Version
	}
	reply, err := l.Snapshot(ctx, req)
	if err != nil {
		return err
	}
	for _, want := range reply.Want {
		if err := d.resend(ctx, l, want); err != nil {
			return err
		}
	}
	switch reply.Status {
	case wire.SnapshotManifest:
		return d.accept(ctx, l, reply.Manifest)
	case wire.SnapshotRetryLater:
		return fmt.Errorf("the server asks to come back in %d s", reply.RetryAfterSeconds)
	case wire.SnapshotNotModified:
	}
	return nil
}

func (d *device) resend(ctx context.Context, l *link.Link, want wire.Want) error {
	switch want {
	case wire.WantInfo:
		return l.SendInfo(ctx, d.info)
	case wire.WantState:
		for _, r := range d.reports {
			r.sent = false
		}
	}
	return nil
}

// accept fetches and verifies the bodies of a new manifest, and makes the
// reports that follow from it.
func (d *device) accept(ctx context.Context, l *link.Link, m *wire.Manifest) error {
	var have wire.Version
	if d.manifest != nil {
		have = d.manifest.Version
	}
	if newer, err := plan.Accept(have, m); err != nil || !newer {
		return err
	}
	for _, e := range m.Entries {
		if old, ok := d.reports[e.DeploymentRef]; e.Hold || ok && old.hash == e.Hash {
			continue
		}
		if _, err := l.Body(ctx, e.Hash, e.Size); err != nil {
			return err
		}
		d.counters.bodies.Add(1)
		if err := d.report(d.started(e), e.Hash); err != nil {
			return err
		}
	}
	for ref := range d.reports {
		if _, named := m.Find(ref); named {
			continue
		}
		if err := d.report(wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhaseRemoved, LastEventAt: time.Now().UTC()}, ""); err != nil {
			return err
		}
	}
	d.manifest = m
	d.counters.manifests.Add(1)
	return nil
}

// started is the report about a Deployment that runs, or is one of those that fail.
func (d *device) started(e wire.Entry) wire.DeploymentState {
	s := wire.DeploymentState{
		DeploymentRef: e.DeploymentRef, Phase: wire.PhaseRunning, Hash: e.Hash, LastEventAt: time.Now().UTC(),
		Containers: []wire.ContainerState{{Service: "simulated", State: "running"}},
	}
	if d.fails(e.DeploymentRef) {
		s.Phase, s.Error = wire.PhaseFailed, "simulated failure"
		s.Containers[0].State, s.Containers[0].ExitCode = "exited", 1
	}
	return s
}

// fails decides by a hash, so that the same share fails in every run with the
// same names.
func (d *device) fails(ref wire.DeploymentRef) bool {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s", d.id, ref)
	return float64(h.Sum32()) < d.options.failShare*math.MaxUint32
}

func (d *device) report(s wire.DeploymentState, hash string) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding a report: %w", err)
	}
	d.reports[s.DeploymentRef] = &report{raw: raw, hash: hash, gone: s.Phase == wire.PhaseRemoved}
	if s.Phase == wire.PhaseFailed {
		d.counters.failed.Add(1)
	}
	return nil
}

func (d *device) unsent() bool {
	for _, r := range d.reports {
		if !r.sent {
			return true
		}
	}
	return false
}

// flush sends what the server does not know yet.
func (d *device) flush(ctx context.Context, l *link.Link) error {
	for ref, r := range d.reports {
		if r.sent {
			continue
		}
		if err := l.SendState(ctx, r.raw); err != nil {
			return err
		}
		d.counters.reports.Add(1)
		r.sent = true
		if r.gone {
			delete(d.reports, ref)
		}
	}
	return nil
}

func (d *device) stateHash() string {
	digests := make(map[wire.DeploymentRef]wire.Digest, len(d.reports))
	for ref, r := range d.reports {
		if !r.gone {
			digests[ref] = wire.Sum(r.raw)
		}
	}
	return wire.StateHash(digests)
}
