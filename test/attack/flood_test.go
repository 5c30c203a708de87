package attack_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	kicks = "fleet_device_kicks_total"
	// Messages a second of the floods in strict mode, and of large ones.
	floodRate = 1000
	largeRate = 20
	// Attempts a second to come back.
	attempts = 5
)

// floodAttacks cost the server as much as one device can make them cost.
func (a *arena) floodAttacks() []attack {
	var all []attack
	for _, kind := range wire.Kinds {
		counted := counts(kicks, answered(kind, wire.RefusedRateLimited))
		all = append(all, attack{"flood of " + string(kind), func(t *testing.T, d *device) { a.flood(t, d, kind) }, counted})
	}
	return append(all, []attack{
		{"flood in the name of another session", a.floodAsAnother, counts(kicks, answered(wire.KindState, wire.RefusedSession))},
		{"flood of a copy of the device", a.floodOfCopy, counts(kicks, answered(wire.KindState, wire.RefusedSession))},
		{"flood of refused subjects", a.floodRefused, counts(refusal("bus", "publish"), refusal("bus", "dropped"))},
		{"flood of refused subscriptions", a.floodSubscriptions, counts(refusal("bus", "subscribe"))},
		{"flood of large refused payloads", a.floodLarge, counts(answered(wire.KindState, wire.RefusedBadRequest))},
		{"flood of pings", a.floodPings, allows("NATS answers them on the connection, at the cost of a few bytes each")},
		{"flood of subscriptions and their ends", a.floodInterest, allows("they are on its own subjects and never many at a time")},
		{"answers that nobody reads", a.neverRead, counts(refusal("bus", "slowConsumer"))},
		{"nudges that nobody reads", a.neverReadNudges, allows("they fit into its buffer")},
	}...)
}

// persistent is a device that comes back as soon as it is dropped.
type persistent struct {
	*device

	// wait paces its attempts.
	wait func()
}

// again returns the device's connection, a new one when the last one ended.
func (p *persistent) again() *nats.Conn {
	if p.conn.IsConnected() {
		return p.conn
	}
	p.wait()
	if c, err := p.site.dial(p.site.tls(p.cert), p.Identify); err == nil {
		p.conn = c
	}
	return p.conn
}

// legal is a valid message of a kind.
func (a *arena) legal(t *testing.T, d *device, kind wire.Kind) any {
	t.Helper()
	own := d.manifest(1).Entries[0]
	switch kind {
	case wire.KindSnapshot:
		return d.snapshotRequest()
	case wire.KindBody:
		return wire.BodyRequest{Hash: own.Hash}
	case wire.KindInfo:
		return wire.DeviceInfo{Inventory: wire.Inventory{Hostname: "x"}}
	case wire.KindState:
		return wire.DeploymentState{DeploymentRef: own.DeploymentRef, Phase: wire.PhaseFailed, Hash: own.Hash, Error: strings.Repeat("x", wire.MaxError), LastEventAt: time.Now()}
	case wire.KindHeartbeat:
		return wire.Heartbeat{At: time.Now().Unix(), Uptime: 1}
	case wire.KindSecret:
		return wire.SecretRequest{Namespace: "default", Name: "none"}
	case wire.KindRegistry:
		return wire.RegistryRequest{}
	}
	t.Fatalf("no message of kind %s", kind)
	return nil
}

// flood sends legal messages as fast as the connection takes them.
func (a *arena) flood(t *testing.T, d *device, kind wire.Kind) {
	m := d.message(kind, a.legal(t, d, kind))
	m.Reply = d.inbox("a")
	p := &persistent{d, a.pace(attempts)}
	var sent atomic.Int64
	a.flooding(floodRate, func(int) {
		if p.again().PublishMsg(m) == nil {
			sent.Add(1)
		}
	})
	t.Logf("%d messages", sent.Load())
}

// floodAsAnother sends what a copy of the device would be to blame for.
func (a *arena) floodAsAnother(t *testing.T, d *device) {
	other := &device{site: d.site, t: t, name: d.name, key: d.key, cert: d.cert, Session: deviceclient.NewSession(d.name)}
	m := other.message(wire.KindState, a.legal(t, d, wire.KindState))
	m.Reply = other.inbox("a")
	p := &persistent{d, a.pace(attempts)}
	a.flooding(floodRate, func(int) { _ = p.again().PublishMsg(m) })
}

// floodOfCopy is the flood of a thief, which the device itself must not notice.
func (a *arena) floodOfCopy(t *testing.T, d *device) {
	thief := &device{site: d.site, t: t, name: d.name, key: d.key, cert: d.cert, Session: deviceclient.NewSession(d.name)}
	thief.connect()
	m := thief.message(wire.KindState, a.legal(t, d, wire.KindState))
	p := &persistent{thief, a.pace(attempts)}
	a.flooding(floodRate, func(int) { _ = p.again().PublishMsg(m) })
	p.conn.Close()
	if !d.conn.IsConnected() {
		t.Fatal("the device was dropped for what its copy did")
	}
	if answer := d.request(wire.KindState, a.legal(t, d, wire.KindState)); answer.Error != nil {
		t.Errorf("the device is answered %v", answer.Error)
	}
}

func (a *arena) floodRefused(_ *testing.T, d *device) {
	p := &persistent{d, a.pace(attempts)}
	a.flooding(floodRate, func(i int) { _ = p.again().Publish(fmt.Sprintf("$KV.desired-state.%d", i), nil) })
}

func (a *arena) floodSubscriptions(_ *testing.T, d *device) {
	p := &persistent{d, a.pace(attempts)}
	a.flooding(floodRate, func(i int) { _, _ = p.again().SubscribeSync(fmt.Sprintf("fleet.v1.down.%d", i)) })
}

// floodLarge makes the server carry what it refuses.
func (a *arena) floodLarge(_ *testing.T, d *device) {
	m := d.message(wire.KindState, []byte(strings.Repeat("x", wire.MaxReply-1000)))
	m.Reply = d.inbox("a")
	p := &persistent{d, a.pace(attempts)}
	a.flooding(largeRate, func(int) { _ = p.again().PublishMsg(m) })
}

func (a *arena) floodPings(_ *testing.T, d *device) {
	r := d.introduce(`{"verbose":true}`)
	defer r.discard()()
	many := strings.Repeat("PING\r\n", 1000)
	a.flooding(largeRate, func(int) { r.say("%s", many) })
}

func (a *arena) floodInterest(_ *testing.T, d *device) {
	r := d.introduce(`{"verbose":false}`)
	defer r.discard()()
	a.flooding(floodRate, func(i int) { r.say("SUB %s %d\r\nUNSUB %d\r\n", d.inbox(fmt.Sprint(i)), i, i) })
}

// neverRead asks for the largest answers there are and leaves them.
func (a *arena) neverRead(t *testing.T, d *device) {
	hash := d.manifest(1).Entries[0].Hash
	body := encode(t, wire.BodyRequest{Hash: hash})
	header := fmt.Sprintf("NATS/1.0\r\n%s: %s\r\n\r\n", wire.HeaderSession, d.ID)
	ask := fmt.Sprintf("HPUB %s %s %d %d\r\n%s%s\r\n", d.up(wire.KindBody), d.inbox("a"), len(header), len(header)+len(body), header, body)
	const volley = 400 // 64 KB each
	a.flooding(floodRate, func(i int) {
		if i > 4 {
			time.Sleep(a.scale.flood / 10) // its budget is used up
		}
		r, err := a.raw(t, a.tls(d.cert))
		if err != nil {
			return
		}
		r.say("CONNECT %s\r\nSUB %s 1\r\n", fmt.Sprintf(`{"verbose":false,"headers":true,"name":%q}`, d.ID), d.inbox("a"))
		r.say("%s", strings.Repeat(ask, volley))
		time.Sleep(a.scale.flood / 5)
	}) // the connections stay open: the server has to end them
}

// neverReadNudges is nudged by changes of its Deployment.
func (a *arena) neverReadNudges(t *testing.T, d *device) {
	r := d.introduce(`{"verbose":false}`)
	r.say("SUB fleet.v1.down.%s.%s.> 1\r\n", d.name, d.ID)
	group := d.name
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{"group":%q}}}`, group)
	_, err := a.client.Devices().Patch(t.Context(), d.name, types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, err)
	const changes = 20
	for i := range changes {
		a.deploy("default", fmt.Sprintf("%s-%d", d.name, i), group)
	}
	time.Sleep(a.scale.flood)
}
