package deviceapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// noticeTimeout bounds a Notice: the device is dropped with or without it.
const noticeTimeout = 200 * time.Millisecond

// retrySeconds is how soon a device asks again after assignment.ErrNotReady.
const retrySeconds = 2

// Manifests is where manifests and bodies come from.
type Manifests interface {
	// Manifest returns the complete manifest of a device, or assignment.ErrNotReady.
	Manifest(device string) (*wire.Manifest, error)
	// Epoch is that of every manifest.
	Epoch() string
	// Body returns a body that the device's manifest names.
	Body(device, hash string) ([]byte, bool)
	// EarlierBody returns one that an earlier manifest may have named. It may wait for
	// the API.
	EarlierBody(ctx context.Context, device, hash string) ([]byte, bool)
	// Secret returns the content of a Secret that a score in the device's manifest
	// names.
	Secret(device string, ref wire.DeploymentRef, name string) (data map[string][]byte, digest string, ok bool)
}

// Registry gives devices access to the images that the gateway holds.
type Registry interface {
	// Issue returns a password for a device, whose name is the user name, and
	// false when it may have none.
	Issue(device string) (password string, ok bool)
	// Names are what the registry is called before the name of an image: HOST:PORT.
	Names() []string
	// Upstreams are the registries whose images it has, too.
	Upstreams() []string
}

// Config is what the door needs.
type Config struct {
	// Conn is a connection in the account of the devices.
	Conn      *nats.Conn
	Buckets   *bus.Buckets
	Manifests Manifests
	Registry  Registry
	Roster    *roster.Roster
	// Connections are those of Conn's account.
	Connections bus.Connections
	// Metrics count what its loops do.
	Metrics *reconcile.Metrics
	Logger  *slog.Logger
}

// Server is the door.
type Server struct {
	Config

	handlers map[wire.Kind]handler
	// earlier are requests for bodies that the API has to be asked for: nobody who asks
	// for another one waits behind them.
	earlier *turns
	reports *reports
	nudger  *nudger
	metrics *metrics
	// loop guards what is done for a message.
	loop  *guard.Guard
	ctx   context.Context
	ready chan struct{}
}

// New returns a server that does not serve yet.
func New(c Config) *Server {
	s := &Server{
		Config: c, reports: &reports{buckets: c.Buckets, roster: c.Roster},
		nudger: newNudger(c.Conn, c.Roster.Current, c.Logger), metrics: newMetrics(), loop: c.Metrics.Loop("device-api", c.Logger), ready: make(chan struct{}),
	}
	s.earlier = newTurns(s.loop)
	s.handlers = s.answers()
	return s
}

// Collectors are the metrics of the door.
func (s *Server) Collectors() []prometheus.Collector { return s.metrics.collectors() }

// Nudge asks a device, soon, to fetch a snapshot.
func (s *Server) Nudge(device string) { s.nudger.add(device) }

// Forget removes everything that a device ever reported.
func (s *Server) Forget(ctx context.Context, device string) error {
	return s.reports.forget(ctx, device)
}

// Notice tells a device, if it is connected, what to do now that it is
// revoked. It returns when the broker has the message. Sessions that have not proven
// that they are the device learn it when they ask why they are refused.
func (s *Server) Notice(device string, r wire.Revocation) error {
	current := s.Roster.Current(device)
	if current == "" {
		return nil
	}
	subject, err := wire.DownSubject(device, current, wire.KindRevoked)
	if err != nil {
		return err
	}
	data, err := json.Marshal(wire.RevokedNotice{Revocation: r})
	if err == nil {
		err = s.Conn.Publish(subject, data)
	}
	if err == nil {
		err = s.Conn.FlushTimeout(noticeTimeout)
	}
	if err != nil {
		return fmt.Errorf("telling device %s that it is revoked: %w", device, err)
	}
	return nil
}

// Ready is closed when messages of devices are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	s.ctx = ctx
	if err := s.reports.load(ctx); err != nil {
		return err
	}
	var working sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() { cancel(); working.Wait() }()
	// A queue each, so that a flood of one kind is not before another.
	queues := map[wire.Kind]*turns{}
	for _, kind := range append(slices.Clone(wire.Kinds), wire.KindUnknown) {
		if s.handlers[kind] == nil && kind != wire.KindUnknown {
			return fmt.Errorf("the server has no answer to messages of kind %s", kind)
		}
		queue := newTurns(s.loop)
		queues[kind] = queue
		for range workers(kind) {
			working.Go(func() { queue.run(ctx) })
		}
	}
	working.Go(func() { s.earlier.run(ctx) })
	// The queue group lets several servers share the work.
	sub, err := s.Conn.QueueSubscribe(wire.UpWildcard, "deviceapi", func(m *nats.Msg) {
		s.loop.Do(func() { s.guard(m, queues) }, "subject", m.Subject)
	})
	if err != nil {
		return fmt.Errorf("subscribing to %s: %w", wire.UpWildcard, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed already
	if err := s.Conn.Flush(); err != nil {
		return fmt.Errorf("subscribing: %w", err)
	}
	close(s.ready)
	return s.Metrics.Loop("nudges", s.Logger).Keep(ctx, s.nudger.run)
}

// writers is how many reports are written to the bus at one time: each waits until the
// bus has it, and more would leave the processor to them alone.
const writers = 32

// workers is how many devices' messages of a kind are worked on at one time.
func workers(kind wire.Kind) int {
	if kind == wire.KindInfo || kind == wire.KindState {
		return writers
	}
	return 1
}

// answers has what answers each kind of message.
func (s *Server) answers() map[wire.Kind]handler {
	return map[wire.Kind]handler{
		wire.KindSnapshot:  s.snapshot,
		wire.KindBody:      s.body,
		wire.KindInfo:      s.info,
		wire.KindState:     s.state,
		wire.KindHeartbeat: s.heartbeat,
		wire.KindSecret:    s.secret,
		wire.KindRegistry:  s.registry,
	}
}

// message is what a device sent.
type message struct {
	device  string
	kind    wire.Kind
	session string
	// inbox is where an answer goes.
	inbox   string
	payload []byte
}

// handler answers one message of a device, with nil for no answer.
type handler func(m message) (reply any, err error)

// guard does everything that must happen before any work is done for a
// device: whose message it is, whether it may expect an answer there, its
// budget and its size. It does not block: all devices come by here.
func (s *Server) guard(raw *nats.Msg, queues map[wire.Kind]*turns) {
	device, kind, err := wire.ParseUpSubject(raw.Subject)
	if err != nil {
		return
	}
	id, badHeader := sessionOf(raw.Header)
	m, queue := message{device: device, kind: kind, session: id, inbox: raw.Reply, payload: raw.Data}, queues[kind]
	if !s.mayPass(m, queue) {
		return
	}
	switch {
	case wire.IsSharedReply(device, m.inbox):
		s.outdated(m)
	case m.inbox != "" && !wire.IsReplyOf(device, m.session, m.inbox):
		s.metrics.refusals.WithLabelValues("reply").Inc()
		s.logRefusal(m, "reply", "an answer would go to somebody else's inbox")
	case len(m.payload) > kind.Verb().MaxRequest:
		s.refuse(m, &wire.Refusal{Code: wire.RefusedBadRequest, Message: fmt.Sprintf("%d bytes, at most %d are allowed", len(m.payload), kind.Verb().MaxRequest)}, queue)
	case badHeader != nil:
		s.refuse(m, badHeader, queue)
	case kind == wire.KindHeartbeat: // it costs less than its turn would
		if _, err := s.handle(m, s.handlers[kind]); err != nil {
			s.refuse(m, err, queue)
			return
		}
		s.metrics.requests.WithLabelValues(string(kind), resultOK).Inc()
	default:
		s.queue(queue, m, func() { s.work(m) })
	}
}

// resultOK is the label of requests that were not refused.
const resultOK = "ok"

// work does what a message asks for.
func (s *Server) work(m message) {
	reply, err := s.handle(m, s.handlers[m.kind])
	if errors.Is(err, errEarlier) {
		s.queue(s.earlier, m, func() {
			reply, err := s.handle(m, s.earlierBody)
			s.answer(m, reply, err)
		})
		return
	}
	s.answer(m, reply, err)
}

// errEarlier: the body is not of the present manifest.
var errEarlier = errors.New("an earlier body")

// mayPass takes a message from its device's budget. It refuses what is over it, and
// reports whether to go on.
func (s *Server) mayPass(m message, queue *turns) bool {
	switch s.Roster.Take(m.device, m.session, m.kind, len(m.payload)) {
	case roster.Pass:
		return true
	case roster.Refuse:
		s.refuse(m, overBudget(m.kind), queue)
	case roster.Ignore:
		s.metrics.flooded.Inc()
	case roster.DroppedStrays:
		s.Logger.Warn("sessions dropped that are not the device: they keep sending over their budget", "device", m.device, "kind", m.kind)
		s.metrics.kicks.Inc()
	case roster.DroppedDevice:
		s.Logger.Warn("device dropped: it keeps sending over its budget", "device", m.device, "kind", m.kind)
		s.metrics.kicks.Inc()
	}
	return false
}

// overBudget is why a message is refused that its device had no budget for.
func overBudget(kind wire.Kind) error {
	if kind == wire.KindUnknown {
		return &wire.Refusal{Code: wire.RefusedBadRequest, Message: "this server knows no such message: it is older than the agent, upgrade fleet-server"}
	}
	return &wire.Refusal{Code: wire.RefusedRateLimited, Message: "too many messages of this kind: slow down"}
}

// outdated refuses an agent whose answers all holders of the device's key would
// hear. It cannot be told: it hears nothing but on the subjects that it shares.
func (s *Server) outdated(m message) {
	s.metrics.refusals.WithLabelValues("outdated").Inc()
	s.logRefusal(m, "outdated", "the agent is too old for this server: upgrade fleet-agent on the device")
	s.Roster.Outdated(m.device)
	s.Roster.BarSession(m.device, m.session)
}

// queue gives a message a turn of its device. What is beyond those that it may have is
// dropped, and counted: it sends faster than it can be answered.
func (s *Server) queue(t *turns, m message, work func()) {
	if !t.add(m.device, piece{do: work, own: s.Roster.Current(m.device) == m.session}) {
		s.metrics.flooded.Inc()
	}
}

// refuse answers in the device's turn; what it sent is not kept until then.
func (s *Server) refuse(m message, refusal error, queue *turns) {
	m.payload = nil
	if !queue.add(m.device, piece{do: func() { s.answer(m, nil, refusal) }}) {
		s.metrics.flooded.Inc()
	}
}

// handle returns the answer to a message. A mistake of the program costs one answer.
func (s *Server) handle(m message, f handler) (reply any, err error) {
	if m.kind != wire.KindSnapshot { // which brings its own proof
		if err := s.Roster.Report(m.device, m.session); err != nil {
			return nil, err
		}
	}
	err = s.loop.Try(func() (err error) { reply, err = f(m); return err }, "device", m.device, "kind", m.kind)
	return reply, err
}

// sessionOf returns the session that a message belongs to. NATS acts upon some
// headers, so no other is let through.
func sessionOf(h nats.Header) (string, error) {
	values := h[wire.HeaderSession]
	if len(values) != 1 || !wire.ValidSession(values[0]) {
		return "", &wire.Refusal{Code: wire.RefusedBadRequest, Message: "one header " + wire.HeaderSession + " is needed"}
	}
	if len(h) > 1 {
		return values[0], &wire.Refusal{Code: wire.RefusedBadRequest, Message: "headers other than one " + wire.HeaderSession + " are not allowed"}
	}
	return values[0], nil
}

// answer sends a reply to the session's own inbox and nowhere else. A session in
// quarantine is told so, and its connection ends.
func (s *Server) answer(m message, reply any, err error) {
	s.reply(m, reply, err)
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok && refusal.Code == wire.RefusedQuarantined {
		_ = s.Conn.FlushTimeout(noticeTimeout) // it ends with or without the answer
		s.Roster.BarSession(m.device, m.session)
	}
}

func (s *Server) reply(m message, reply any, err error) {
	result := resultOK
	if err != nil {
		refusal, ok := errors.AsType[*wire.Refusal](err)
		if !ok {
			s.Logger.Error("answering a device", "device", m.device, "kind", m.kind, "error", err)
			refusal = &wire.Refusal{Code: wire.RefusedUnavailable, Message: "the server cannot do this at the moment: try again later"}
		} else {
			s.logRefusal(m, string(refusal.Code), refusal.Message)
		}
		result, reply = string(refusal.Code), wire.Ack{Error: refusal}
	}
	s.metrics.requests.WithLabelValues(string(m.kind), result).Inc()
	most := m.kind.Verb().MaxReply
	if m.kind == wire.KindUnknown {
		most = wire.KindInfo.Verb().MaxReply // an Ack, too
	}
	if most == 0 || !wire.IsReplyOf(m.device, m.session, m.inbox) {
		return
	}
	data, err := json.Marshal(reply)
	if len(data) > most {
		err = fmt.Errorf("the reply has %d bytes, agents accept %d", len(data), most)
	}
	if err == nil {
		err = s.Conn.Publish(m.inbox, data)
	}
	if look := s.Roster.Answered(m.device, len(data)); len(look) > 0 {
		s.Connections.DropUnread(look)
	}
	if err != nil {
		s.Logger.Warn("replying to a device", "device", m.device, "kind", m.kind, "error", err)
	}
}

// logRefusal tells the log who was refused what, and why, as far as that does
// not fill it.
func (s *Server) logRefusal(m message, code, reason string) {
	if s.Roster.Line(m.device) {
		label := "" // the id is a secret
		if m.session != "" {
			label = wire.SessionLabel(m.session)
		}
		s.Logger.Info("refused", "device", m.device, "kind", m.kind, "session", label, "code", code, "reason", reason)
	}
}

func (s *Server) snapshot(m message) (any, error) {
	defer s.nudger.asked(m.device)
	req, err := wire.DecodeRequest[wire.SnapshotRequest](m.kind, m.payload)
	if err != nil {
		return nil, badRequest(err)
	}
	later := wire.SnapshotReply{Status: wire.SnapshotRetryLater, RetryAfterSeconds: retrySeconds}
	manifest, err := s.Manifests.Manifest(m.device)
	if errors.Is(err, assignment.ErrNotReady) {
		return later, nil
	}
	nonce, sessionErr := s.Roster.Snapshot(m.device, m.session, roster.Claim{
		Nonce: req.Nonce, Hardware: req.HardwareID, Epoch: s.Manifests.Epoch(), Capabilities: wire.ParseCapabilities(req.Capabilities),
	})
	if errors.Is(sessionErr, roster.ErrWait) {
		return later, nil
	}
	if sessionErr != nil {
		return nil, sessionErr
	}
	if err != nil { // it has proven itself all the same, and may report
		return nil, err
	}
	want, err := s.wants(m.device, req, manifest)
	if err != nil {
		return nil, err
	}
	reply := wire.SnapshotReply{Status: wire.SnapshotNotModified, Want: want, Time: time.Now().UTC(), Nonce: nonce}
	if manifest.Version != req.Have {
		manifest.Time = reply.Time
		reply.Status, reply.Manifest = wire.SnapshotManifest, manifest
	}
	return reply, nil
}

// wants names the reports that the server lacks or has in another version.
func (s *Server) wants(device string, req wire.SnapshotRequest, m *wire.Manifest) ([]wire.Want, error) {
	var want []wire.Want
	infoHash, stateHash := s.Roster.ReportHashes(device)
	if infoHash == "" || infoHash != req.InfoHash {
		want = append(want, wire.WantInfo)
	}
	if stateHash != req.StateHash {
		if err := s.reports.dropStale(s.ctx, device, m); err != nil {
			return nil, err
		}
		want = append(want, wire.WantState)
	}
	return want, nil
}

func (s *Server) body(m message) (any, error) {
	return partOfBody(m, func(hash string) ([]byte, error) {
		body, ok := s.Manifests.Body(m.device, hash)
		if !ok {
			return nil, errEarlier
		}
		return body, nil
	})
}

func (s *Server) earlierBody(m message) (any, error) {
	return partOfBody(m, func(hash string) ([]byte, error) {
		body, ok := s.Manifests.EarlierBody(s.ctx, m.device, hash)
		if !ok {
			return nil, &wire.Refusal{Code: wire.RefusedNotFound, Message: "the manifest of this device does not name this body: fetch a snapshot"}
		}
		return body, nil
	})
}

func partOfBody(m message, find func(hash string) ([]byte, error)) (any, error) {
	req, err := wire.DecodeRequest[wire.BodyRequest](m.kind, m.payload)
	if err != nil {
		return nil, badRequest(err)
	}
	body, err := find(req.Hash)
	if err != nil {
		return nil, err
	}
	if req.Offset < 0 || req.Offset >= len(body) {
		return nil, &wire.Refusal{Code: wire.RefusedBadRequest, Message: fmt.Sprintf("offset %d is not within the body of %d bytes", req.Offset, len(body))}
	}
	return wire.BodyReply{Size: len(body), Data: body[req.Offset:min(req.Offset+wire.BodyChunk, len(body))]}, nil
}

func (s *Server) secret(m message) (any, error) {
	req, err := wire.DecodeRequest[wire.SecretRequest](m.kind, m.payload)
	if err != nil {
		return nil, badRequest(err)
	}
	data, digest, ok := s.Manifests.Secret(m.device, wire.DeploymentRef{Namespace: req.Namespace, Name: req.Deployment}, req.Name)
	if !ok {
		return nil, &wire.Refusal{Code: wire.RefusedNotFound, Message: "the manifest of this device names no such Secret or ConfigMap: fetch a snapshot"}
	}
	return wire.SecretReply{Data: data, Digest: digest}, nil
}

func (s *Server) registry(m message) (any, error) {
	if _, err := wire.DecodeRequest[wire.RegistryRequest](m.kind, m.payload); err != nil {
		return nil, badRequest(err)
	}
	password, ok := s.Registry.Issue(m.device)
	if !ok { // revoked, and about to be dropped
		return nil, &wire.Refusal{Code: wire.RefusedRevoked, Message: "this device may have no images"}
	}
	return wire.RegistryReply{Registries: s.Registry.Names(), Upstreams: s.Registry.Upstreams(), User: m.device, Password: password}, nil
}

func (s *Server) info(m message) (any, error) {
	if _, err := wire.DecodeRequest[wire.DeviceInfo](m.kind, m.payload); err != nil {
		return nil, badRequest(err)
	}
	return wire.Ack{}, s.reports.putInfo(s.ctx, m.device, m.payload)
}

func (s *Server) state(m message) (any, error) {
	state, err := wire.DecodeState(m.payload)
	if err != nil {
		return nil, badRequest(err)
	}
	if err := s.checkReport(m.device, state); err != nil {
		return nil, err
	}
	return wire.Ack{}, s.reports.putState(s.ctx, m.device, state, m.payload)
}

func (s *Server) heartbeat(m message) (any, error) {
	if _, err := wire.DecodeRequest[wire.Heartbeat](m.kind, m.payload); err != nil {
		return nil, badRequest(err)
	}
	return nil, s.Buckets.Beat(m.device, m.payload)
}

func badRequest(err error) error {
	return &wire.Refusal{Code: wire.RefusedBadRequest, Message: err.Error()}
}
