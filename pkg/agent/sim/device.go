package sim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/heartbeat"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	requestTimeout    = 10 * time.Second
	heartbeatInterval = 30 * time.Second
	retryInterval     = time.Second
	agentVersion      = "sim"
)

// Config describes one simulated device.
type Config struct {
	// Device is the id; Server the enrollment URL; Token an enrollment token.
	Device, Server, Token string
	// Labels are asked for.
	Labels map[string]string
	// Capabilities is what the device says that it can do; nil for not saying it.
	Capabilities []string
	// Fail makes the device report every Deployment as failed.
	Fail bool
	// Delay is the time between learning of a score and running it.
	Delay time.Duration
	// Flap is how long, on average, the device keeps a connection before it drops it;
	// zero for ever.
	Flap time.Duration
	// Latencies takes what the device measures; it may be nil.
	Latencies *Latencies
	Logger    *slog.Logger
}

// Device is a simulated device. Its methods may be called while Run works.
type Device struct {
	Config

	key      keystore.Key
	enroll   func(context.Context, enroll.Request) (*enroll.Result, error)
	identity *enroll.Result
	link     *link.Link
	drops    chan struct{}

	mu       sync.Mutex // guards what follows
	manifest wire.Manifest
	// sent are the encoded reports that the device stands by.
	sent    map[wire.DeploymentRef][]byte
	info    []byte
	nonce   string
	reports int
	// lost is when the device lost its connection, or began to make its first; zero
	// while the server has answered a snapshot request over the present one.
	lost    time.Time
	running bool
}

// New returns a device with a new key that is not enrolled yet.
func New(c Config) (*Device, error) {
	key, err := keystore.File{}.Create()
	if err != nil {
		return nil, err
	}
	return &Device{Config: c, key: key, enroll: enroll.Enroll, drops: make(chan struct{}, 1), sent: map[wire.DeploymentRef][]byte{}}, nil
}

// Enroll obtains the device's certificate. Where an agent gives up after minutes in which
// it asked a busy server less and less often, it begins again, as whoever sees to a device
// does.
func (d *Device) Enroll(ctx context.Context) (err error) {
	begin := time.Now()
	for {
		d.identity, err = d.enroll(ctx, enroll.Request{
			Server: d.Server, Token: d.Token, Device: d.Config.Device, Key: d.key, Inventory: d.inventory(),
		})
		if err == nil {
			d.Latencies.add(Enrolled, time.Since(begin))
			return nil
		}
		if !enroll.IsBusy(err) || ctx.Err() != nil {
			return fmt.Errorf("enrolling %s: %w", d.Config.Device, err)
		}
	}
}

// Run connects and follows the manifest until ctx ends. Enroll comes first.
func (d *Device) Run(ctx context.Context) error {
	d.lose()
	l, err := link.Open(d.linkConfig())
	if err != nil {
		return fmt.Errorf("connecting %s: %w", d.Config.Device, err)
	}
	defer l.Close()
	d.link = l
	flap := newFlap(d.Flap)
	defer flap.Stop()
	beat := time.NewTimer(heartbeat.Second(time.Now(), heartbeatInterval))
	defer beat.Stop()
	retry := time.NewTimer(0)
	if !retry.Stop() {
		<-retry.C
	}
	defer retry.Stop()
	started := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.Connected():
		case <-l.Nudges():
		case <-retry.C:
		case <-d.drops:
			d.drop(l)
			continue
		case <-flap.C:
			flap.Reset(pause(d.Flap))
			d.drop(l)
			continue
		case <-beat.C:
			beat.Reset(heartbeat.Next(time.Now(), heartbeatInterval))
			_ = l.Heartbeat(wire.Heartbeat{At: time.Now().Unix(), Uptime: int64(time.Since(started).Seconds())}) // lost without a connection
			continue
		}
		if err := d.sync(ctx); err != nil && ctx.Err() == nil {
			d.Logger.Debug("syncing", "device", d.Config.Device, "error", err)
			retry.Reset(retryInterval)
		}
	}
}

// newFlap is a timer that never fires when there is no time between two losses.
func newFlap(every time.Duration) *time.Timer {
	t := time.NewTimer(pause(every))
	if every == 0 {
		t.Stop()
	}
	return t
}

// pause is a random time, every on average: devices do not flap in step.
func pause(every time.Duration) time.Duration {
	return time.Duration(2 * rand.Float64() * float64(every))
}

// Drop makes the device lose its connection, and make another at once, as after a
// fault of the network. It does not wait for that.
func (d *Device) Drop() {
	select {
	case d.drops <- struct{}{}:
	default: // it is about to
	}
}

func (d *Device) drop(l *link.Link) {
	d.lose()
	if err := l.Reconnect(); err != nil {
		d.Logger.Debug("dropping the connection", "device", d.Config.Device, "error", err)
	}
}

// lose notes that the device has no connection, unless it had none.
func (d *Device) lose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = true
	if d.lost.IsZero() {
		d.lost = time.Now()
	}
}

// found notes that the server has answered.
func (d *Device) found() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.lost.IsZero() {
		d.Latencies.add(Synced, time.Since(d.lost))
		d.lost = time.Time{}
	}
}

// IsSynced reports whether the server has answered the device over its present
// connection.
func (d *Device) IsSynced() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running && d.lost.IsZero()
}

// Manifest returns the manifest that the device follows.
func (d *Device) Manifest() wire.Manifest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.manifest
}

// Reports is how many reports the device has sent.
func (d *Device) Reports() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reports
}

// Link is the device's connection while Run works, for tests of the protocol.
func (d *Device) Link() *link.Link { return d.link }

func (d *Device) linkConfig() link.Config {
	cert := &tls.Certificate{PrivateKey: d.key}
	for block, rest := pem.Decode([]byte(d.identity.Certificate)); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(d.identity.Root))
	return link.Config{Device: d.Config.Device, Servers: d.identity.Servers, Credentials: link.Fixed{Cert: cert, Pool: roots}, Log: d.Logger}
}

var errRetry = errors.New("the server asks to retry later")

// sync asks for a snapshot and brings the device in line with it.
func (d *Device) sync(ctx context.Context) error {
	reply, err := d.snapshot(ctx)
	if err != nil {
		return err
	}
	for _, want := range reply.Want {
		if err := d.resend(ctx, want); err != nil {
			return err
		}
	}
	switch reply.Status {
	case wire.SnapshotRetryLater:
		return errRetry
	case wire.SnapshotManifest:
		d.found()
		begin := time.Now()
		slept, err := d.follow(ctx, reply.Manifest)
		if err == nil {
			d.Latencies.add(Applied, time.Since(begin)-slept)
		}
		return err
	}
	d.found()
	return nil
}

func (d *Device) snapshot(ctx context.Context) (*wire.SnapshotReply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	d.mu.Lock()
	req := wire.SnapshotRequest{Have: d.manifest.Version, StateHash: d.stateHash(), Nonce: d.nonce, Capabilities: d.Capabilities}
	if d.info != nil {
		req.InfoHash = wire.Sum(d.info).String()
	}
	d.mu.Unlock()
	reply, err := d.link.Snapshot(ctx, req)
	if reply != nil && reply.Nonce != "" {
		d.mu.Lock()
		d.nonce = reply.Nonce
		d.mu.Unlock()
	}
	return reply, err
}

// stateHash is called with mu held.
func (d *Device) stateHash() string {
	digests := make(map[wire.DeploymentRef]wire.Digest, len(d.sent))
	for ref, payload := range d.sent {
		digests[ref] = wire.Sum(payload)
	}
	return wire.StateHash(digests)
}

func (d *Device) resend(ctx context.Context, want wire.Want) error {
	if want == wire.WantInfo {
		return d.sendInfo(ctx)
	}
	d.mu.Lock()
	payloads := make([][]byte, 0, len(d.sent))
	for _, p := range d.sent {
		payloads = append(payloads, p)
	}
	d.mu.Unlock()
	for _, p := range payloads {
		if err := d.send(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) sendInfo(ctx context.Context) error {
	payload, err := json.Marshal(wire.DeviceInfo{
		Labels: d.Labels, Inventory: d.inventory(),
		Conditions: []wire.Condition{{Type: wire.ConditionPodmanReady, Status: wire.ConditionTrue, Reason: "Simulated"}},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := d.link.SendInfo(ctx, payload); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info = payload
	return nil
}

// follow fetches what is new, reports it, and reports what left. It returns how long
// Config.Delay kept it.
func (d *Device) follow(ctx context.Context, m *wire.Manifest) (slept time.Duration, err error) {
	old := d.Manifest()
	for _, e := range m.Entries {
		if was, ok := old.Find(e.DeploymentRef); e.Hold || ok && was.Hash == e.Hash && was.SecretsDigest == e.SecretsDigest {
			continue
		}
		if err := d.start(ctx, e); err != nil {
			return slept, err
		}
		slept += d.Delay
	}
	for _, e := range old.Entries {
		if _, stays := m.Find(e.DeploymentRef); stays || e.Hold {
			continue
		}
		if err := d.report(ctx, wire.DeploymentState{DeploymentRef: e.DeploymentRef, Phase: wire.PhaseRemoved}); err != nil {
			return slept, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.manifest = *m
	return slept, nil
}

func (d *Device) start(ctx context.Context, e wire.Entry) error {
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := d.link.Body(bounded, e.Hash, e.Size); err != nil {
		return fmt.Errorf("fetching %s: %w", e.DeploymentRef, err)
	}
	if d.Delay > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d.Delay):
		}
	}
	s := wire.DeploymentState{DeploymentRef: e.DeploymentRef, Hash: e.Hash, SecretsDigest: e.SecretsDigest, Revision: e.Revision, Phase: wire.PhaseRunning}
	if d.Fail {
		s.Phase, s.Error = wire.PhaseFailed, "simulated failure"
	}
	return d.report(ctx, s)
}

func (d *Device) report(ctx context.Context, s wire.DeploymentState) error {
	s.LastEventAt = time.Now().UTC()
	payload, err := json.Marshal(s)
	if err != nil {
		return err
	}
	d.mu.Lock()
	if s.Phase == wire.PhaseRemoved {
		delete(d.sent, s.DeploymentRef)
	} else {
		d.sent[s.DeploymentRef] = payload
	}
	d.mu.Unlock()
	return d.send(ctx, payload)
}

func (d *Device) send(ctx context.Context, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := d.link.SendState(ctx, payload); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reports++
	return nil
}

func (d *Device) inventory() wire.Inventory {
	return wire.Inventory{Hostname: d.Config.Device, Arch: runtime.GOARCH, OS: "simulated", AgentVersion: agentVersion}
}
