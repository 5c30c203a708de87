package deviceapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// manifests is what the assigner would say.
type manifests struct {
	mu        sync.Mutex // guards what follows
	err       error
	mistake   bool // panics instead of answering
	manifests map[string]wire.Manifest
	bodies    map[string][]byte // by device and hash
	// hang keeps whoever asks for an earlier body waiting until it is closed.
	hang chan struct{}
}

func (m *manifests) Manifest(device string) (*wire.Manifest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mistake {
		panic("a mistake")
	}
	if m.err != nil {
		return nil, m.err
	}
	manifest, ok := m.manifests[device]
	if !ok {
		return nil, assignment.ErrNotReady
	}
	return &manifest, nil
}

func (m *manifests) Epoch() string { return "e1" }

func (m *manifests) EarlierBody(_ context.Context, device, hash string) ([]byte, bool) {
	m.mu.Lock()
	hang := m.hang
	m.mu.Unlock()
	if hang != nil {
		<-hang
		return []byte("{}"), hash == strings.Repeat("e", 64)
	}
	return nil, false
}

func (m *manifests) Body(device, hash string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	body, ok := m.bodies[device+" "+hash]
	return body, ok
}

// Secret has one for each device, with its name in it.
func (m *manifests) Secret(device string, ref wire.DeploymentRef, name string) (map[string][]byte, string, bool) {
	return map[string][]byte{"of": []byte(device)}, "", ref.Namespace == "shop" && name == "of-"+device
}

func (m *manifests) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// images are for one device only.
type images struct{}

func (images) Issue(device string) (string, bool) { return "password of " + device, device == "edge-1" }

func (images) Names() []string { return []string{"gw:8443"} }

func (images) Upstreams() []string { return []string{"docker.io"} }

// door is a running device API on a bus of its own.
type door struct {
	*deviceapi.Server
	t         testing.TB
	bus       *brokertest.Bus
	manifests *manifests
	log       *lines
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex // guards text
	text []string
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(p))
	return len(p), nil
}

// with counts the lines that have all of the words.
func (l *lines) with(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.text {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// manifestOf is the manifest of every device: one Deployment, with a body.
func manifestOf(device string) (wire.Manifest, []byte) {
	body := bytes.Repeat([]byte(device), 2*wire.BodyChunk/len(device)+1)
	return wire.Manifest{
		Version: wire.Version{Epoch: "e1", Term: 3, Seq: 5}, Complete: true,
		Entries: []wire.Entry{{DeploymentRef: refs[1], Type: "PodmanV0", Hash: wire.Sum(body).String(), Size: len(body)}},
	}, body
}

func newDoor(t testing.TB, change ...func(*brokertest.Bus)) *door {
	t.Helper()
	d := &door{
		t: t, bus: brokertest.Start(t, nil), log: &lines{},
		manifests: &manifests{manifests: map[string]wire.Manifest{}, bodies: map[string][]byte{}},
	}
	for _, device := range []string{"edge-1", "edge-2"} {
		m, body := manifestOf(device)
		d.manifests.manifests[device] = m
		d.manifests.bodies[device+" "+m.Entries[0].Hash] = body
	}
	for _, c := range change {
		c(d.bus)
	}
	d.Server = deviceapi.New(deviceapi.Config{
		Conn: d.bus.Devices, Buckets: d.bus.Buckets, Manifests: d.manifests,
		Registry: images{}, Roster: d.bus.Roster, Connections: d.bus.Broker,
		Logger: slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), d.log), nil)),
	})
	background(t, func(ctx context.Context) {
		if err := d.Run(ctx); err != nil {
			t.Errorf("running: %v", err)
		}
	})
	<-d.Ready()
	return d
}

// connect connects a device, whose session proves itself.
func (d *door) connect(device string) *nats.Conn {
	d.t.Helper()
	c := d.bus.Connect(device)
	if r := ask[wire.SnapshotReply](d.t, c, device, wire.KindSnapshot, wire.SnapshotRequest{}); r.Error != nil {
		d.t.Fatal(r.Error)
	}
	return c
}

// lastHeard is when a device was last heard, or zero.
func (d *door) lastHeard(device string) time.Time {
	last, _, _ := d.bus.Roster.Presence(device)
	return last
}

// message is one of the session that brokertest.Bus.Connect makes.
func message(subject string, payload []byte) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Header.Set(wire.HeaderSession, brokertest.Session)
	m.Data = payload
	return m
}

// publish sends a message that asks for an answer somewhere.
func publish(c *nats.Conn, subject, reply string, payload []byte) error {
	m := message(subject, payload)
	m.Reply = reply
	return c.PublishMsg(m)
}

// ask sends a request and decodes the reply.
func ask[T any](t testing.TB, c *nats.Conn, device string, kind wire.Kind, payload any) T {
	t.Helper()
	data, ok := payload.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(payload); err != nil {
			t.Fatal(err)
		}
	}
	subject, err := wire.UpSubject(device, kind)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.RequestMsg(message(subject, data), 20*time.Second)
	if err != nil {
		t.Fatalf("asking for %s: %v", kind, err)
	}
	var reply T
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		t.Fatalf("reply %q: %v", m.Data, err)
	}
	return reply
}

func wantRefusal(t testing.TB, r *wire.Refusal, code wire.RefusalCode, says string) {
	t.Helper()
	if r == nil || r.Code != code || !strings.Contains(r.Message, says) {
		t.Errorf("refusal is %+v, want %s that says %q", r, code, says)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.bus.Connect("edge-1")
	m, _ := manifestOf("edge-1")
	for name, tc := range map[string]struct {
		have wire.Version
		want wire.SnapshotStatus
	}{
		"nothing":       {wire.Version{}, wire.SnapshotManifest},
		"current":       {m.Version, wire.SnapshotNotModified},
		"older":         {wire.Version{Epoch: "e1", Term: 3, Seq: 4}, wire.SnapshotManifest},
		"newer":         {wire.Version{Epoch: "e1", Term: 3, Seq: 6}, wire.SnapshotManifest},
		"other term":    {wire.Version{Epoch: "e1", Term: 2, Seq: 5}, wire.SnapshotManifest},
		"another epoch": {wire.Version{Epoch: "e0", Term: 3, Seq: 5}, wire.SnapshotManifest},
	} {
		t.Run(name, func(t *testing.T) {
			reply := ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot, wire.SnapshotRequest{Have: tc.have, StateHash: wire.StateHash(nil)})
			want := wire.SnapshotReply{Status: tc.want, Want: []wire.Want{wire.WantInfo}}
			if tc.want == wire.SnapshotManifest {
				want.Manifest = &m
				if reply.Manifest == nil || time.Since(reply.Manifest.Time).Abs() > time.Hour {
					t.Errorf("the manifest has no time: %+v", reply.Manifest)
				}
			}
			if time.Since(reply.Time).Abs() > time.Hour {
				t.Errorf("the server's time is %s", reply.Time)
			}
			if diff := cmp.Diff(want, reply, cmpopts.IgnoreFields(wire.Manifest{}, "Time"), cmpopts.IgnoreFields(wire.SnapshotReply{}, "Time")); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSnapshotWhenThereIsNone(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.bus.Connect("edge-1")
	d.manifests.fail(assignment.ErrNotReady)
	reply := ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot, wire.SnapshotRequest{})
	if diff := cmp.Diff(wire.SnapshotReply{Status: wire.SnapshotRetryLater, RetryAfterSeconds: deviceapi.RetrySeconds}, reply); diff != "" {
		t.Errorf("reply (-want +got):\n%s", diff)
	}
	d.manifests.fail(&wire.Refusal{Code: wire.RefusedUnavailable, Message: "513 Deployments"})
	reply = ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot, wire.SnapshotRequest{})
	wantRefusal(t, reply.Error, wire.RefusedUnavailable, "513")
	// The device is what it is, and says so, whether it can be told what to run or not.
	if a := ask[wire.Ack](t, c, "edge-1", wire.KindInfo, wire.DeviceInfo{}); a.Error != nil {
		t.Errorf("its report is refused: %v", a.Error)
	}
	// What is wrong inside the server is none of the device's business.
	d.manifests.fail(errors.New("secret detail"))
	reply = ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot, wire.SnapshotRequest{})
	wantRefusal(t, reply.Error, wire.RefusedUnavailable, "try again")
	if strings.Contains(reply.Error.Message, "secret") {
		t.Errorf("refusal says %q", reply.Error.Message)
	}
}

// A mistake of the program costs one answer, which the device asks for again.
func TestAMistakeCostsOneAnswer(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	mistake := func(is bool) {
		d.manifests.mu.Lock()
		defer d.manifests.mu.Unlock()
		d.manifests.mistake = is
	}
	mistake(true)
	for range 2 {
		reply := ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot, wire.SnapshotRequest{})
		wantRefusal(t, reply.Error, wire.RefusedUnavailable, "try again")
	}
	if n := d.log.with("stack=", "a mistake", "device=edge-1"); n != 1 {
		t.Errorf("the stack is reported %d times, want once", n)
	}
	mistake(false)
	if reply := ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot, wire.SnapshotRequest{}); reply.Error != nil {
		t.Errorf("afterwards the device is refused: %v", reply.Error)
	}
}

// smallDisk has so many bytes free.
type smallDisk struct{ free atomic.Int64 }

// Room implements bus.Disk.
func (d *smallDisk) Room(bytes int64) error {
	if free := d.free.Load(); free < bytes {
		return fmt.Errorf("%d bytes are free", free)
	}
	return nil
}

// LastFull implements bus.Disk.
func (*smallDisk) LastFull() time.Time { return time.Time{} }

// A device that reports while the disk is full is told so, at once and with numbers, and
// reports again later. That is no fault of the server's.
func TestAFullDiskIsToldToWhoReports(t *testing.T) {
	t.Parallel()
	disk := &smallDisk{}
	disk.free.Store(64 << 20)
	d := newDoor(t, func(b *brokertest.Bus) { b.Buckets.Bound(disk) })
	c := d.connect("edge-1")
	m, _ := manifestOf("edge-1")
	reports := map[wire.Kind]any{
		wire.KindInfo:  wire.DeviceInfo{},
		wire.KindState: wire.DeploymentState{DeploymentRef: refs[1], Phase: wire.PhaseRunning, Hash: m.Entries[0].Hash},
	}
	disk.free.Store(4096)
	for kind, report := range reports {
		wantRefusal(t, ask[wire.Ack](t, c, "edge-1", kind, report).Error, wire.RefusedUnavailable, "4096 bytes are free")
	}
	if n := d.log.with("level=ERROR"); n > 0 {
		t.Errorf("the log has %d errors", n)
	}
	disk.free.Store(64 << 20)
	for kind, report := range reports {
		if a := ask[wire.Ack](t, c, "edge-1", kind, report); a.Error != nil {
			t.Errorf("with room, %s is refused: %v", kind, a.Error)
		}
	}
}

func TestServerAsksForWhatItLacks(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	m, _ := manifestOf("edge-1")
	info := []byte(`{"inventory":{"hostname":"one"}}`)
	state, err := json.Marshal(wire.DeploymentState{DeploymentRef: refs[1], Phase: wire.PhaseRunning, Hash: m.Entries[0].Hash})
	if err != nil {
		t.Fatal(err)
	}
	stale := []byte(`{"namespace":"yard","name":"web","phase":"Running"}`)
	agent := map[wire.DeploymentRef]wire.Digest{refs[1]: wire.Sum(state)}
	wants := func(want ...wire.Want) {
		t.Helper()
		reply := ask[wire.SnapshotReply](t, c, "edge-1", wire.KindSnapshot,
			wire.SnapshotRequest{Have: m.Version, InfoHash: wire.Sum(info).String(), StateHash: wire.StateHash(agent)})
		if diff := cmp.Diff(want, reply.Want); diff != "" {
			t.Errorf("wanted (-want +got):\n%s", diff)
		}
	}
	wants(wire.WantInfo, wire.WantState)
	for kind, payload := range map[wire.Kind][]byte{wire.KindInfo: info, wire.KindState: state} {
		if ack := ask[wire.Ack](t, c, "edge-1", kind, payload); ack.Error != nil {
			t.Errorf("%s: %v", kind, ack.Error)
		}
	}
	wants()
	if diff := cmp.Diff(map[string]string{"state.edge-1.shop.web": string(state)}, contentOf(t, d.bus.Buckets.State, "")); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"info.edge-1": string(info)}, contentOf(t, d.bus.Buckets.Info, "")); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}

	sent := info
	info = []byte(`{"inventory":{"hostname":"two"}}`) // and the report of it was lost
	wants(wire.WantInfo)
	info = sent

	// A device that lost its memory does not know of a report any more. The
	// server drops it, since the manifest does not name it either.
	if ack := ask[wire.Ack](t, c, "edge-1", wire.KindState, stale); ack.Error != nil {
		t.Fatal(ack.Error)
	}
	wants(wire.WantState)
	wants()

	if err := d.Server.Forget(t.Context(), "edge-1"); err != nil {
		t.Fatal(err)
	}
	wants(wire.WantInfo, wire.WantState)
	if held := contentOf(t, d.bus.Buckets.State, ""); len(held) > 0 {
		t.Errorf("bucket holds %v", held)
	}
}

func TestBodiesOfTheOwnManifestOnly(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	own, body := manifestOf("edge-1")
	theirs, _ := manifestOf("edge-2")
	hash := own.Entries[0].Hash
	var got []byte
	for offset := 0; offset < len(body); {
		reply := ask[wire.BodyReply](t, c, "edge-1", wire.KindBody, wire.BodyRequest{Hash: hash, Offset: offset})
		if reply.Error != nil || reply.Size != len(body) || len(reply.Data) == 0 || len(reply.Data) > wire.BodyChunk {
			t.Fatalf("at %d: %d bytes of %d, %v", offset, len(reply.Data), reply.Size, reply.Error)
		}
		got = append(got, reply.Data...)
		offset += len(reply.Data)
	}
	if !bytes.Equal(got, body) {
		t.Error("the pieces are not the body")
	}
	for name, tc := range map[string]struct {
		request wire.BodyRequest
		code    wire.RefusalCode
	}{
		"of another device": {wire.BodyRequest{Hash: theirs.Entries[0].Hash}, wire.RefusedNotFound},
		"unknown":           {wire.BodyRequest{Hash: strings.Repeat("0", 64)}, wire.RefusedNotFound},
		"no hash":           {wire.BodyRequest{}, wire.RefusedNotFound},
		"before the start":  {wire.BodyRequest{Hash: hash, Offset: -1}, wire.RefusedBadRequest},
		"at the end":        {wire.BodyRequest{Hash: hash, Offset: len(body)}, wire.RefusedBadRequest},
		"far beyond":        {wire.BodyRequest{Hash: hash, Offset: math.MaxInt}, wire.RefusedBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			reply := ask[wire.BodyReply](t, c, "edge-1", wire.KindBody, tc.request)
			if reply.Error == nil || reply.Error.Code != tc.code || len(reply.Data) > 0 {
				t.Errorf("reply is %d bytes, %+v, want %s", len(reply.Data), reply.Error, tc.code)
			}
		})
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	t.Parallel()
	requests := []wire.Kind{wire.KindSnapshot, wire.KindBody, wire.KindInfo, wire.KindState}
	d := newDoor(t)
	c := d.connect("edge-1")
	for _, kind := range requests {
		for name, payload := range map[string]string{
			"empty":          "",
			"no document":    "\x00\xff",
			"cut off":        `{"have":{"epoch":"e1"`,
			"another type":   `["list"]`,
			"a number":       `1e999`,
			"wrong types":    `{"have":7,"hash":{},"inventory":[],"phase":{}}`,
			"as long as can": strings.Repeat(" ", kind.Verb().MaxRequest),
			"longer":         strings.Repeat(" ", kind.Verb().MaxRequest+1),
		} {
			t.Run(string(kind)+" "+name, func(t *testing.T) {
				before := d.lastHeard("edge-1")
				ack := ask[wire.Ack](t, c, "edge-1", kind, []byte(payload))
				wantRefusal(t, ack.Error, wire.RefusedBadRequest, "")
				if strings.Contains(ack.Error.Message, "list") {
					t.Errorf("the refusal repeats what came: %q", ack.Error.Message)
				}
				if longer := name == "longer"; longer != strings.Contains(ack.Error.Message, "at most") || longer && d.lastHeard("edge-1") != before {
					t.Errorf("refusal is %v", ack.Error)
				}
			})
		}
	}
	for name, payload := range map[string]string{
		"no phase":     `{"namespace":"shop","name":"web"}`,
		"bad name":     `{"namespace":"shop","name":"a.b","phase":"Running"}`,
		"wildcard":     `{"namespace":"*","name":">","phase":"Running"}`,
		"bad hash":     `{"namespace":"shop","name":"web","phase":"Running","hash":"x"}`,
		"long message": `{"namespace":"shop","name":"web","phase":"Failed","error":"` + strings.Repeat("x", wire.MaxError+1) + `"}`,
	} {
		t.Run("state "+name, func(t *testing.T) {
			wantRefusal(t, ask[wire.Ack](t, c, "edge-1", wire.KindState, []byte(payload)).Error, wire.RefusedBadRequest, "")
		})
	}
	if held := contentOf(t, d.bus.Buckets.State, ""); len(held) > 0 {
		t.Errorf("bucket device-state holds %v", held)
	}
	if held := contentOf(t, d.bus.Buckets.Info, ""); len(held) > 0 {
		t.Errorf("bucket device-info holds %v", held)
	}
}

func TestHeadersAreRefused(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	for header, value := range map[string]string{"Nats-Rollup": "all", "Nats-Msg-Id": "1", "X-Anything": "x"} {
		m := message("fleet.v1.up.edge-1.info", []byte(`{}`))
		m.Header.Set(header, value)
		reply, err := c.RequestMsg(m, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var ack wire.Ack
		if err := json.Unmarshal(reply.Data, &ack); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, ack.Error, wire.RefusedBadRequest, "headers")
	}
	if held := contentOf(t, d.bus.Buckets.Info, ""); len(held) > 0 {
		t.Errorf("bucket holds %v", held)
	}
}

// A reply goes to the inbox of the device that asked, or nowhere: the server
// has rights that a device lacks, and must not lend them.
func TestForgedReplySubjectsGetNoAnswer(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	var mu sync.Mutex // guards answers
	var answers []string
	if _, err := d.bus.Devices.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasPrefix(m.Subject, "fleet.v1.up.") {
			answers = append(answers, m.Subject)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.bus.Devices.Flush(); err != nil {
		t.Fatal(err)
	}
	c := d.bus.Connect("edge-1")
	for _, reply := range []string{
		"fleet.v1.down.edge-2.nudge", "fleet.v1.up.edge-2.state", "_INBOX_edge-2_00000000000000a1.x", "_INBOX_edge-1_00000000000000b2.x", "_INBOX_edge-1_00000000000000a1", "_INBOX_edge-11.x", "_INBOX.x",
		"$KV.desired-state.edge-2.shop.web", "$JS.API.STREAM.DELETE.KV_desired-state", "$SYS.REQ.SERVER.PING",
	} {
		if err := publish(c, "fleet.v1.up.edge-1.snapshot", reply, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	// One subscription: when this is answered, all before it have been handled.
	m, err := c.RequestMsg(message("fleet.v1.up.edge-1.snapshot", []byte(`{}`)), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.bus.Devices.Flush(); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, "the answer to the honest request", func() error {
		mu.Lock()
		defer mu.Unlock()
		if !slices.ContainsFunc(answers, func(s string) bool { return wire.IsReplyOf("edge-1", brokertest.Session, s) }) {
			return fmt.Errorf("the server published to %v", answers)
		}
		if len(answers) != 1 {
			t.Errorf("the server published to %v (and answered %q)", answers, m.Data)
		}
		return nil
	})
}

func TestHeartbeats(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	beat := `{"at":1,"up":2}`
	// What is last would be written, if it were taken.
	for _, payload := range []string{`{"at":0,"up":1}`, beat, `not a document`, strings.Repeat("x", wire.KindHeartbeat.Verb().MaxRequest+1)} {
		if err := publish(c, "fleet.v1.up.edge-1.heartbeat", brokertest.Inbox("edge-1")+".x", []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	brokertest.Eventually(t, "the heartbeat in its bucket", func() error {
		if diff := cmp.Diff(map[string]string{"heartbeat.edge-1": beat}, contentOf(t, d.bus.Buckets.Heartbeat, "")); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
	if d.lastHeard("edge-1").IsZero() || !d.lastHeard("edge-2").IsZero() {
		t.Error("the wrong device was heard")
	}
}

// A device speaks for itself alone, whatever it writes where.
func TestDeviceCannotSpeakForAnother(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	state := []byte(`{"namespace":"shop","name":"web","phase":"Failed","device":"edge-2"}`)
	for _, subject := range []string{"fleet.v1.up.edge-2.state", "fleet.v1.up.edge-2.heartbeat", "fleet.v1.up.edge-1.state.edge-2", "fleet.v1.up.edge-1.edge-2.state"} {
		if err := c.PublishMsg(message(subject, state)); err != nil {
			t.Fatal(err)
		}
	}
	if ack := ask[wire.Ack](t, c, "edge-1", wire.KindState, state); ack.Error != nil {
		t.Fatal(ack.Error)
	}
	if diff := cmp.Diff(map[string]string{"state.edge-1.shop.web": string(state)}, contentOf(t, d.bus.Buckets.State, "")); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
	if !d.lastHeard("edge-2").IsZero() {
		t.Error("edge-2 counts as heard")
	}
}

func TestFloodIsRefusedThenCutOff(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	closed := make(chan struct{})
	certificate := d.bus.Enroll("edge-1")
	dial := func(opts ...nats.Option) (*nats.Conn, error) {
		return d.bus.Dial(certificate, append(opts, nats.CustomInboxPrefix(brokertest.Inbox("edge-1")))...)
	}
	flooder, err := dial(nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(flooder.Close)
	other := d.bus.Connect("edge-2")
	var mu sync.Mutex // guards codes
	codes := map[wire.RefusalCode]int{}
	if _, err := flooder.Subscribe(brokertest.Inbox("edge-1")+".flood", func(m *nats.Msg) {
		var r wire.SnapshotReply
		if json.Unmarshal(m.Data, &r) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if r.Error != nil {
			codes[r.Error.Code]++
			return
		}
		codes[""]++
	}); err != nil {
		t.Fatal(err)
	}
	burst := wire.KindSnapshot.Verb().Burst
	const strikes = 1000
	for range burst + strikes/2 {
		if err := publish(flooder, "fleet.v1.up.edge-1.snapshot", brokertest.Inbox("edge-1")+".flood", []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
	brokertest.Eventually(t, "answers and refusals", func() error {
		mu.Lock()
		defer mu.Unlock()
		if codes[""] < burst || codes[wire.RefusedRateLimited] < strikes/4 || len(codes) != 2 {
			return fmt.Errorf("there are %v", codes)
		}
		return nil
	})
	// It may stay while it is only refused, and another device is served.
	if err := flooder.Flush(); err != nil {
		t.Errorf("it was cut off too early: %v", err)
	}
	if r := ask[wire.SnapshotReply](t, other, "edge-2", wire.KindSnapshot, wire.SnapshotRequest{}); r.Status != wire.SnapshotManifest {
		t.Errorf("another device gets %+v", r)
	}
	background(t, func(ctx context.Context) {
		for ctx.Err() == nil && !flooder.IsClosed() {
			_ = publish(flooder, "fleet.v1.up.edge-1.snapshot", brokertest.Inbox("edge-1")+".flood", []byte(`{}`)) // fails once it is cut off
		}
	})
	<-closed
	if r := ask[wire.SnapshotReply](t, other, "edge-2", wire.KindSnapshot, wire.SnapshotRequest{}); r.Status != wire.SnapshotManifest {
		t.Errorf("another device gets %+v", r)
	}
	if again, err := dial(); !errors.Is(err, nats.ErrAuthorization) {
		again.Close()
		t.Errorf("a device that was dropped for a flood comes back at once: %v", err)
	}
}

// sessionMsg is a message that says which session it is of.
func sessionMsg(kind wire.Kind, session string, payload string) *nats.Msg {
	m := nats.NewMsg("fleet.v1.up.edge-1." + string(kind))
	m.Header.Set(wire.HeaderSession, session)
	m.Data = []byte(payload)
	return m
}

// A copy that floods with reports, under whatever names, is dropped and stays
// out. The device stays, and has what it may use.
func TestFloodOfACopyCostsTheDeviceNothing(t *testing.T) {
	t.Parallel()
	const current, other = "00000000000000a1", "00000000000000b2"
	for name, called := range map[string]string{"its own name": other, "another name": "00000000000000c3"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDoor(t)
			certificate := d.bus.Enroll("edge-1")
			dial := func(session string, opts ...nats.Option) (*nats.Conn, error) {
				return d.bus.Dial(certificate, append(opts, nats.Name(session), nats.CustomInboxPrefix("_INBOX_edge-1_"+session))...)
			}
			device, err := dial(current)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(device.Close)
			if _, err := device.RequestMsg(sessionMsg(wire.KindSnapshot, current, "{}"), 10*time.Second); err != nil {
				t.Fatal(err)
			}
			closed := make(chan struct{})
			thief, err := dial(called, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
			if err != nil {
				t.Fatal(err)
			}
			background(t, func(ctx context.Context) {
				for ctx.Err() == nil && !thief.IsClosed() {
					_ = thief.PublishMsg(sessionMsg(wire.KindState, other, "{}")) // fails once it is cut off
				}
			})
			<-closed
			if c, err := dial(called); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("the copy comes back: %v", err)
				c.Close()
			}
			m, err := device.RequestMsg(sessionMsg(wire.KindState, current, "{}"), 10*time.Second)
			if err != nil || strings.Contains(string(m.Data), string(wire.RefusedRateLimited)) {
				t.Errorf("the device is answered %v, %v", m, err)
			}
		})
	}
}

// The log says who was refused what, and why, and no device can fill it.
func TestRefusalsAreLogged(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	for range 20 {
		if a := ask[wire.Ack](t, c, "edge-1", wire.KindState, []byte("garbage")); a.Error == nil {
			t.Fatal("garbage is taken")
		}
	}
	if n := d.log.with("level=INFO", "msg=refused", "device=edge-1", "kind=state", "code=badRequest", "reason="); n < 1 || n > 6 {
		t.Errorf("the log has %d lines about 20 refusals:\n%s", n, d.log.text)
	}
	if err := publish(d.bus.Connect("edge-2"), "fleet.v1.up.edge-2.snapshot", brokertest.Inbox("edge-1")+".x", nil); err != nil {
		t.Fatal(err)
	}
	brokertest.Eventually(t, "the attempt is logged", func() error {
		if d.log.with("msg=refused", "device=edge-2", "code=reply") != 1 {
			return errors.New("it is not")
		}
		return nil
	})
}

func TestNudgeReachesTheDevice(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	c := d.connect("edge-1")
	nudged := make(chan *nats.Msg, 1)
	if _, err := c.ChanSubscribe("fleet.v1.down.edge-1."+brokertest.Session+".nudge", nudged); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	d.Nudge("edge-2")
	d.Nudge("edge-1")
	<-nudged
}

func TestCredentialsForImages(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	got := ask[wire.RegistryReply](t, d.connect("edge-1"), "edge-1", wire.KindRegistry, wire.RegistryRequest{})
	if want := (wire.RegistryReply{Registries: []string{"gw:8443"}, Upstreams: []string{"docker.io"}, User: "edge-1", Password: "password of edge-1"}); !cmp.Equal(want, got) {
		t.Error(cmp.Diff(want, got))
	}
	refused := ask[wire.RegistryReply](t, d.connect("edge-2"), "edge-2", wire.KindRegistry, wire.RegistryRequest{})
	if refused.Error == nil || refused.Error.Code != wire.RefusedRevoked || refused.Password != "" {
		t.Errorf("a device that may have none gets %+v", refused)
	}
}

// A body that the API has to be asked for, which is slow, delays no other body.
func TestAnEarlierBodyDelaysNoOther(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	one, other := d.connect("edge-1"), d.connect("edge-2")
	hang := make(chan struct{})
	answer := sync.OnceFunc(func() { close(hang) })
	t.Cleanup(answer)
	d.manifests.mu.Lock()
	d.manifests.hang = hang
	d.manifests.mu.Unlock()
	subject, err := wire.UpSubject("edge-1", wire.KindBody)
	if err != nil {
		t.Fatal(err)
	}
	inbox := one.NewRespInbox()
	replies, err := one.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(one, subject, inbox, []byte(`{"hash":"`+strings.Repeat("e", 64)+`"}`)); err != nil {
		t.Fatal(err)
	}
	if err := one.Flush(); err != nil {
		t.Fatal(err)
	}
	theirs, _ := manifestOf("edge-2")
	if reply := ask[wire.BodyReply](t, other, "edge-2", wire.KindBody, wire.BodyRequest{Hash: theirs.Entries[0].Hash}); reply.Error != nil {
		t.Error(reply.Error)
	}
	answer()
	if m, err := replies.NextMsg(20 * time.Second); err != nil || !strings.Contains(string(m.Data), `"size":2`) {
		t.Errorf("the earlier body: %v (%v)", m, err)
	}
}
