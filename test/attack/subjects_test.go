package attack_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// quiet is how long an attacker listens for what must not come.
const quiet = 150 * time.Millisecond

var (
	publishRefused   = counts(refusal("bus", "publish"))
	subscribeRefused = counts(refusal("bus", "subscribe"))
)

// subjectAttacks use subjects that are not the device's.
func (a *arena) subjectAttacks() []attack {
	return []attack{
		{"subscribe to what is not its own", a.eavesdrop, subscribeRefused},
		{"subscribe in queue groups", a.joinQueues, subscribeRefused},
		{"publish in the name of others", a.impersonate, publishRefused},
		{"publish to ids that look like its own", a.escape, publishRefused},
		{"publish into the server's own subjects", a.publishInside, publishRefused},
		{"ask JetStream and the system account", a.askInside, publishRefused},
		{"forge the reply subject", a.forgeReplies, counts(refusal("deviceapi", "reply"))},
		{"make the server report a missing responder to others", a.noResponders, counts(answered(wire.KindUnknown, wire.RefusedBadRequest))},
		{"forge headers", a.forgeHeaders, counts(answered(wire.KindState, wire.RefusedBadRequest), refusal("bus", "headers"))},
		{"trace a message to others", a.trace, publishRefused},
		{"subscribe to too much", a.subscribeMuch, counts(refusal("bus", "subscriptions"))},
		{"publish to many subjects", a.publishMuch, counts(answered(wire.KindUnknown, wire.RefusedBadRequest))},
	}
}

func (a *arena) eavesdrop(t *testing.T, d *device) {
	victim := a.victims[0].name
	var heard []chan *nats.Msg
	for _, subject := range []string{
		">", "*", "*.>", "fleet.>", "fleet.v1.>", "fleet.v1.up.>", "fleet.v1.up.*.state", "fleet.v1.*.*.>", "fleet.v1.down.>", "fleet.v1.down.*.nudge",
		"fleet.v1.up." + victim + ".>", "fleet.v1.down." + victim + ".>", "fleet.v1.down." + victim + ".nudge", "fleet.v1.up." + d.name + ".>",
		"_INBOX_" + victim + ".>", a.victims[0].inbox(">"), "fleet.v1.down." + victim + "." + a.victims[0].ID + ".>", "fleet.v1.down." + d.name + ".>", "_INBOX_" + d.name + ".>", "_INBOX_" + d.name + "_*.>", "_INBOX_>", "_INBOX_" + d.name + "*.>", "_INBOX.>", "_INBOX_*.>", "_INBOX_" + d.name, "$JS.>", "$SYS.>", "$KV.>", "$SRV.>", "_R_.>", "$JS.EVENT.>",
	} {
		heard = append(heard, d.listen(subject))
		d.refused("subscription", subject)
	}
	time.Sleep(quiet)
	for _, msgs := range heard {
		for _, m := range drain(msgs, nil) {
			t.Errorf("it heard %s %.100q", m.Subject, m.Data)
		}
	}
}

func (a *arena) joinQueues(t *testing.T, d *device) {
	msgs := make(chan *nats.Msg, 100)
	for _, subject := range []string{"fleet.v1.up.*.body", "fleet.v1.up." + a.victims[0].name + ".body", ">"} {
		for _, queue := range []string{"deviceapi", "*", ">"} {
			_, err := d.conn.ChanQueueSubscribe(subject, queue, msgs)
			must(t, err)
		}
		d.refused("subscription", subject)
	}
	// In a group of the server's name on a subject of its own it takes nothing.
	_, err := d.conn.ChanQueueSubscribe(d.inbox(">"), "deviceapi", msgs)
	must(t, err)
	time.Sleep(quiet)
	for _, m := range drain(msgs, nil) {
		t.Errorf("it took %s %.100q", m.Subject, m.Data)
	}
}

func (a *arena) impersonate(_ *testing.T, d *device) {
	victim := a.victims[0]
	for _, kind := range wire.Kinds {
		subject := "fleet.v1.up." + victim.name + "." + string(kind)
		m := d.message(kind, []byte(`{"namespace":"default","name":"`+victim.name+`","phase":"Failed","error":"forged","hash":"`+victim.entry.Hash+`"}`))
		m.Subject, m.Reply = subject, d.inbox("a")
		must(d.t, d.conn.PublishMsg(m))
		d.refused("publish", subject)
	}
	for _, subject := range []string{"fleet.v1.down." + victim.name + ".nudge", "fleet.v1.down." + victim.name + ".revoked", victim.inbox("v.1"), "fleet.v1.down." + victim.name + "." + victim.ID + ".revoked", "fleet.v1.down." + d.name + "." + d.ID + ".nudge"} {
		d.publish(subject, "", nil, []byte(`{"revocation":"Wipe"}`))
		d.refused("publish", subject)
	}
}

// escape uses ids that a careless comparison would take for the device's own,
// or for a victim's.
func (a *arena) escape(t *testing.T, d *device) {
	victim := a.victims[0].name
	state := []byte(`{"namespace":"default","name":"` + victim + `","phase":"Failed","error":"forged"}`)
	for _, subject := range []string{
		"fleet.v1.up." + strings.ToUpper(d.name) + ".state", "fleet.v1.up." + d.name + "0.state", "fleet.v1.up." + strings.TrimSuffix(d.name, d.name[len(d.name)-1:]) + ".state",
		"fleet.v1.up.*.state", "fleet.v1.up.>", "FLEET.v1.up." + d.name + ".state", "fleet.v2.up." + d.name + ".state", "fleet.v1.up", "fleet.v1.up." + d.name,
	} {
		d.publish(subject, d.inbox("a"), nil, state)
		d.refused("publish", subject)
	}
	// Below its own prefix, and no kind of message: nobody may answer.
	replies := d.listen(d.inbox(">"))
	for _, tail := range []string{
		".state.x", ".x", ".state.." + victim, "." + victim + ".state", ".*.state", ".>", ".state.>", ".STATE", ".snapshot ", ".heartbeat.x",
	} {
		_ = d.conn.PublishRequest("fleet.v1.up."+d.name+tail, d.inbox("a"), state) // the client refuses some itself
	}
	d.settle()
	time.Sleep(quiet)
	for _, m := range drain(replies, nil) {
		if len(m.Data) > 0 {
			t.Errorf("it was answered %s %.100q", m.Subject, m.Data)
		}
	}
}

func (a *arena) publishInside(_ *testing.T, d *device) {
	victim := a.victims[0]
	for _, subject := range []string{
		"$KV.desired-state." + victim.name + ".default." + victim.name, "$KV.desired-state." + d.name + ".default.x", "$KV.device-state.state." + victim.name + ".default." + victim.name,
		"$KV.device-info.info." + victim.name, "$KV.device-heartbeat.heartbeat." + victim.name, "$KV.device-info.info." + d.name, "$KV.x", "$JS.ACK.KV_device-state.c.1.1.1.1.1",
		"$SYS.ACCOUNT.DEV.DISCONNECT", "$SYS.ACCOUNT.DEV.CONNECT", "$SYS.REQ.USER.INFO", "$SRV.PING", "_R_.x", "_GR_.x.y", "$NRG.V.x", "$MQTT.x", "$G.x",
	} {
		d.publish(subject, "", nil, []byte(`{"client":{"id":1}}`))
		d.refused("publish", subject)
	}
}

func (a *arena) askInside(t *testing.T, d *device) {
	replies := d.listen(d.inbox(">"))
	for _, subject := range []string{
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.DELETE.KV_desired-state", "$JS.API.STREAM.PURGE.KV_device-state", "$JS.API.STREAM.CREATE.x",
		"$JS.API.STREAM.MSG.GET.KV_desired-state", "$JS.API.CONSUMER.MSG.NEXT.KV_desired-state.x", "$JS.API.STREAM.SNAPSHOT.KV_desired-state", "$JS.API.ACCOUNT.PURGE.CORE",
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.ACCOUNT.DEV.CONNZ", "$SYS.REQ.ACCOUNT.PING.SUBSZ", "$SYS.REQ.SERVER.x.RELOAD", "$SYS.REQ.SERVER.x.KICK",
	} {
		d.publish(subject, d.inbox("a"), nil, nil)
		d.refused("publish", subject)
	}
	time.Sleep(quiet)
	for _, m := range drain(replies, nil) {
		t.Errorf("it was answered %.100q", m.Data)
	}
}

// forgeReplies asks for answers where others listen.
func (a *arena) forgeReplies(t *testing.T, d *device) {
	victim := a.victims[0]
	hash := d.manifest(1).Entries[0].Hash
	for _, reply := range []string{
		victim.inbox("v.1"), victim.inbox(watchInbox), "fleet.v1.down." + victim.name + ".nudge", victim.up(wire.KindState), victim.up(wire.KindInfo), d.up(wire.KindState),
		"$KV.desired-state." + victim.name + ".default." + victim.name, "$KV.device-info.info." + victim.name, "$JS.API.STREAM.DELETE.KV_desired-state", "$SYS.REQ.SERVER.PING",
		"_INBOX_" + d.name, d.inbox(">"), d.inbox("*"), "_INBOX_*.x", ">", "_INBOX_" + d.name + "0.x",
	} {
		for kind, payload := range map[wire.Kind]any{
			wire.KindSnapshot: d.snapshotRequest(), wire.KindBody: wire.BodyRequest{Hash: hash}, wire.KindState: []byte(`{`), wire.KindHeartbeat: []byte(`{`), wire.KindInfo: []byte(`{`),
		} {
			m := d.message(kind, payload)
			m.Reply = reply
			_ = d.conn.PublishMsg(m) // the client refuses some itself
		}
	}
	// The same by hand: some of these are no subjects at all.
	r := d.introduce(fmt.Sprintf(`{"verbose":false,"headers":true,"no_responders":true,"name":%q}`, randomHex(16)))
	for _, reply := range []string{"a..b", ".", "\x00", "_INBOX_" + d.name + "..x", strings.Repeat("x.", 300), victim.inbox("v.\x00")} {
		r.say("PUB %s %s 2\r\n{}\r\n", d.up(wire.KindBody), reply)
	}
	r.say("PING\r\n")
	_, _ = r.hear("PONG")
	d.settle()
	time.Sleep(quiet)
}

// noResponders asks nobody, in the hope that the server tells the victim so.
func (a *arena) noResponders(t *testing.T, d *device) {
	victim := a.victims[0]
	r := d.introduce(`{"verbose":false,"pedantic":true,"headers":true,"no_responders":true,"echo":true}`)
	r.say("SUB %s 1\r\n", d.inbox(">"))
	for _, reply := range []string{victim.inbox("v.1"), victim.inbox(watchInbox), "fleet.v1.down." + victim.name + ".nudge", d.inbox("a")} {
		r.say("PUB fleet.v1.up.%s.nobody %s 0\r\n\r\n", d.name, reply)
	}
	r.say("PING\r\n")
	if said, ok := r.hear("PONG"); strings.Contains(said, victim.name) && !strings.Contains(said, "Permissions") {
		t.Errorf("the server said %v %q", ok, said)
	}
}

// forgeHeaders sends headers that mean something to JetStream or to NATS. The
// session is the only one that a device may send.
func (a *arena) forgeHeaders(t *testing.T, d *device) {
	state := wire.DeploymentState{DeploymentRef: a.victims[0].ref, Phase: wire.PhaseRunning}
	for _, header := range []string{
		"Nats-Rollup", "Nats-Msg-Id", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Subject-Sequence", "Nats-TTL", "Nats-Marker-Reason",
		"KV-Operation", "Nats-Schedule", "Nats-Schedule-Target", "Nats-Incr", "Nats-Batch-Id", "Status", "Description", "fleet-session", "Fleet-Session-", "X", "traceparent",
	} {
		m := d.message(wire.KindState, state)
		m.Header[header] = []string{"all"}
		if answer, err := d.ask(t.Context(), m); err != nil || code(answer) != wire.RefusedBadRequest {
			t.Errorf("header %s: answer is %+v, %v", header, answer.Error, err)
		}
	}
	for name, header := range map[string]nats.Header{
		"many":     {wire.HeaderSession: {d.ID, d.ID}},
		"long":     {wire.HeaderSession: {strings.Repeat("a", 1000)}},
		"no hex":   {wire.HeaderSession: {"../../etc/passwd"}},
		"injected": {wire.HeaderSession: {d.ID + "\r\nNats-Rollup: all"}},
	} {
		m := &nats.Msg{Subject: d.up(wire.KindState), Header: header, Data: encode(t, state)}
		answer, err := d.ask(t.Context(), m)
		if err == nil && answer.Error == nil {
			t.Errorf("session %s: it was accepted", name)
		}
	}
	r := d.introduce(fmt.Sprintf(`{"verbose":false,"headers":true,"name":%q}`, randomHex(16)))
	for _, header := range []string{"", "NATS/1.0", "NATS/1.0\r\n\r\n", "HTTP/1.1 200\r\n\r\n", "NATS/1.0\r\n: x\r\n\r\n", "NATS/1.0\r\nNats-Rollup: all\r\nNats-Rollup: sub\r\n\r\n"} {
		r.say("HPUB %s %d %d\r\n%s%s\r\n", d.up(wire.KindState), len(header), len(header)+2, header, "{}")
	}
	r.say("PING\r\n")
	_, _ = r.hear("PONG")
}

// trace uses the header that makes the server send copies of what a message
// goes through to a subject of the sender's choice.
func (a *arena) trace(_ *testing.T, d *device) {
	for _, dest := range []string{a.victims[0].inbox(watchInbox), "fleet.v1.down." + a.victims[0].name + ".nudge", "$KV.device-info.info." + a.victims[0].name} {
		d.publish(d.up(wire.KindBody), d.inbox("a"), nats.Header{"Nats-Trace-Dest": {dest}, "Nats-Trace-Only": {"true"}, "Accept-Encoding": {"gzip"}}, []byte(`{}`))
		d.refused("publish", dest)
	}
	d.publish(d.up(wire.KindBody), d.inbox("a"), nats.Header{"traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}, []byte(`{}`))
}

func (a *arena) subscribeMuch(t *testing.T, d *device) {
	next := a.pace(floodRate)
	for i := range a.scale.subjects {
		next()
		_, err := d.conn.SubscribeSync(d.inbox(fmt.Sprintf("many.%d", i)))
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Fatal(err)
		}
	}
	d.settle()
}

// publishMuch fills what the server remembers of subjects.
func (a *arena) publishMuch(t *testing.T, d *device) {
	next := a.pace(floodRate)
	for i := range a.scale.subjects {
		next()
		err := d.conn.Publish(fmt.Sprintf("fleet.v1.up.%s.%d", d.name, i), nil)
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Fatal(err)
		}
	}
	d.settle()
}
