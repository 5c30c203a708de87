package broker_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	victimKey     = "edge-2.shop.web"
	victimSubject = "$KV." + wire.BucketDesiredState + "." + victimKey
)

// operator issues a certificate of the operator authority.
func operator(t testing.TB, b *brokertest.Bus, ttl time.Duration, groups ...string) tls.Certificate {
	t.Helper()
	certPEM, keyPEM, err := b.PKI.IssueOperator("ann", groups, time.Now(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func reader(t testing.TB, b *brokertest.Bus, opts ...nats.Option) *nats.Conn {
	t.Helper()
	conn, err := b.Dial(operator(t, b, time.Hour, broker.ReadersGroup), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestReadersAreAdmittedByGroup(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	for groups, in := range map[string]bool{
		broker.ReadersGroup: true, "fleet:other," + broker.ReadersGroup: true,
		"": false, "system:masters": false, "fleet:bus-readers2": false,
	} {
		conn, err := b.Dial(operator(t, b, time.Hour, strings.Split(groups, ",")...))
		if err == nil {
			conn.Close()
		}
		if (err == nil) != in {
			t.Errorf("groups %q get in: %v (%v), want %v", groups, err == nil, err, in)
		}
	}
	// The group means nothing in a certificate of another authority.
	for name, dial := range map[string]func() (*nats.Conn, error){
		"device": func() (*nats.Conn, error) {
			c := b.Enroll("edge-1")
			return b.Dial(c)
		},
	} {
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Request("$JS.API.STREAM.NAMES", nil, 100*time.Millisecond); err == nil {
			t.Errorf("a %s reads", name)
		}
		conn.Close()
	}
}

// What `nats kv ls`, `get` and `watch` do.
func TestReaderReadsBuckets(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	brokertest.Put(t, b.Buckets.DesiredState, victimKey, "theirs")
	brokertest.Put(t, b.Buckets.Heartbeat, "heartbeat.edge-1", "beat")
	js, err := jetstream.New(reader(t, b))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for name := range js.KeyValueStoreNames(t.Context()).Name() {
		names[name] = true
	}
	want := map[string]bool{wire.BucketDesiredState: true, wire.BucketDeviceInfo: true, wire.BucketDeviceState: true, wire.BucketDeviceHeartbeat: true}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
	kv, err := js.KeyValue(t.Context(), wire.BucketDesiredState)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), victimKey)
	if err != nil || string(e.Value()) != "theirs" {
		t.Errorf("Get: %v", err)
	}
	if keys, err := kv.Keys(t.Context()); err != nil || len(keys) != 1 || keys[0] != victimKey {
		t.Errorf("keys are %v (%v)", keys, err)
	}
	status, err := kv.Status(t.Context())
	if err != nil || status.Values() != 1 {
		t.Errorf("Status: %v", err)
	}
	w, err := kv.WatchAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e := <-w.Updates(); e == nil || e.Key() != victimKey {
		t.Errorf("the watch begins with %v", e)
	}
	if e := <-w.Updates(); e != nil {
		t.Errorf("the watch goes on with %v", e)
	}
	brokertest.Put(t, b.Buckets.DesiredState, victimKey, "new")
	if e := <-w.Updates(); string(e.Value()) != "new" {
		t.Errorf("the watch missed a change: %v", e)
	}
	if err := w.Stop(); err != nil {
		t.Error(err)
	}
}

// A bucket is watched whole, also when it is larger than what NATS keeps
// pending for a connection.
func TestReaderWatchesALargeBucket(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	const keys = 2000
	value := strings.Repeat("x", 8<<10)
	for i := range keys {
		brokertest.Put(t, b.Buckets.Heartbeat, fmt.Sprintf("heartbeat.edge-%d", i), value)
	}
	js, err := jetstream.New(reader(t, b))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), wire.BucketDeviceHeartbeat)
	if err != nil {
		t.Fatal(err)
	}
	if held := brokertest.Content(t.Context(), t, kv); len(held) != keys {
		t.Errorf("the reader sees %d keys, want %d", len(held), keys)
	}
}

func TestReaderChangesNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	brokertest.Put(t, b.Buckets.DesiredState, victimKey, "theirs")
	v := &violations{}
	conn := reader(t, b, v.option())
	for _, subject := range []string{
		victimSubject, "$KV.x", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.KV_desired-state", "$JS.API.STREAM.DELETE.KV_desired-state",
		"$JS.API.STREAM.PURGE.KV_desired-state", "$JS.API.STREAM.MSG.DELETE.KV_desired-state", "$JS.API.STREAM.SNAPSHOT.KV_desired-state", "$JS.API.STREAM.RESTORE.X",
		"$JS.API.CONSUMER.DURABLE.CREATE.KV_desired-state.x", "$JS.API.CONSUMER.MSG.NEXT.KV_desired-state.x", "$JS.API.CONSUMER.PAUSE.KV_desired-state.x",
		"$JS.ACK.x", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.CORE.CONNZ", "fleet.v1.up.edge-1.state", "fleet.v1.down.edge-1.nudge", "_INBOX.x", "_INBOX_server.x", "_R_.x", "anything",
	} {
		if err := conn.Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
		v.wait(t, "publish", subject)
	}
	for _, subject := range []string{">", "$KV.>", "$JS.>", "$SYS.>", "fleet.>", "_INBOX_server.>", "_INBOX_edge-1.>", "_R_.>"} {
		if _, err := conn.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		v.wait(t, "subscription", subject)
	}
	unchanged(t, b)
}

func unchanged(t testing.TB, b *brokertest.Bus) {
	t.Helper()
	if diff := cmp.Diff(map[string]string{victimKey: "theirs"}, brokertest.Content(t.Context(), t, b.Buckets.DesiredState)); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
}

// forge asks for something of one key and names another key as the reply.
func forge(t testing.TB, conn *nats.Conn, subject string, data []byte) {
	t.Helper()
	if err := conn.PublishRequest(subject, victimSubject, data); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// The reply of JetStream is published by NATS itself, whatever subject the
// request names. In the account of the buckets it ends in a bucket; from READ
// it does not.
func TestForgedReplyIsNoWrite(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]struct{ subject, data string }{
		"direct get":     {"$JS.API.DIRECT.GET.KV_device-info.$KV.device-info.info.edge-1", ""},
		"direct get, in": {"$JS.API.DIRECT.GET.KV_device-info", `{"last_by_subj":"$KV.device-info.info.edge-1"}`},
		"get":            {"$JS.API.STREAM.MSG.GET.KV_device-info", `{"last_by_subj":"$KV.device-info.info.edge-1"}`},
		"info":           {"$JS.API.STREAM.INFO.KV_device-info", ""},
		"names":          {"$JS.API.STREAM.NAMES", ""},
		"a consumer":     {"$JS.API.CONSUMER.CREATE.KV_device-info.x", `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.Start(t, nil)
			brokertest.Put(t, b.Buckets.DesiredState, victimKey, "theirs")
			brokertest.Put(t, b.Buckets.Info, "info.edge-1", "forged")
			conn := reader(t, b)
			forge(t, conn, request.subject, []byte(request.data))
			// What was asked before is answered before.
			js, err := jetstream.New(conn)
			if err != nil {
				t.Fatal(err)
			}
			kv, err := js.KeyValue(t.Context(), wire.BucketDeviceInfo)
			if err != nil {
				t.Fatal(err)
			}
			if held := brokertest.Content(t.Context(), t, kv); held["info.edge-1"] != "forged" {
				t.Fatalf("the reader reads %v", held)
			}
			unchanged(t, b)

			// Without the separation it is a write.
			forge(t, b.Core, request.subject, []byte(request.data))
			brokertest.Eventually(t, "the control", func() error {
				if held := brokertest.Content(t.Context(), t, b.Buckets.DesiredState)[victimKey]; held == "theirs" {
					return errors.New("the key was not overwritten")
				}
				return nil
			})
		})
	}
}

// ask sends a request for a consumer and returns the answer.
func ask(t testing.TB, conn *nats.Conn, subject string, req any) server.JSApiConsumerCreateResponse {
	t.Helper()
	data, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	m, err := conn.Request(subject, data, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var answer server.JSApiConsumerCreateResponse
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// A consumer publishes what a bucket holds to the subject in the body of the
// request, which no permission looks at.
func TestReadersConsumerDeliversToItsInboxOnly(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	brokertest.Put(t, b.Buckets.DesiredState, victimKey, "theirs")
	brokertest.Put(t, b.Buckets.Info, "info.edge-1", "forged")
	heard := make(chan *nats.Msg, 10)
	if _, err := b.Core.ChanSubscribe("_INBOX_server.x", heard); err != nil {
		t.Fatal(err)
	}
	conn := reader(t, b)
	request := func(change func(*server.ConsumerConfig)) server.CreateConsumerRequest {
		c := server.ConsumerConfig{DeliverSubject: "_INBOX.x.y", AckPolicy: server.AckNone, Name: "mine"}
		change(&c)
		return server.CreateConsumerRequest{Stream: "KV_device-info", Config: c}
	}
	const subject = "$JS.API.CONSUMER.CREATE.KV_device-info.mine"
	for name, change := range map[string]func(*server.ConsumerConfig){
		"a bucket":         func(c *server.ConsumerConfig) { c.DeliverSubject = victimSubject },
		"the server":       func(c *server.ConsumerConfig) { c.DeliverSubject = "_INBOX_server.x" },
		"the API":          func(c *server.ConsumerConfig) { c.DeliverSubject = "$JS.API.STREAM.DELETE.KV_desired-state" },
		"wildcards":        func(c *server.ConsumerConfig) { c.DeliverSubject = "_INBOX.>" },
		"nothing":          func(c *server.ConsumerConfig) { c.DeliverSubject = "" },
		"durable":          func(c *server.ConsumerConfig) { c.Durable = "mine" },
		"acknowledgements": func(c *server.ConsumerConfig) { c.AckPolicy = server.AckExplicit },
	} {
		if answer := ask(t, conn, subject, request(change)); answer.Error == nil || answer.Error.Code != 403 {
			t.Errorf("%s: the answer is %+v", name, answer)
		}
	}
	unchanged(t, b)
	answer := ask(t, conn, subject, request(func(c *server.ConsumerConfig) { c.InactiveThreshold, c.MaxAckPending = 24*time.Hour, 5 }))
	if answer.Error != nil || answer.Config.InactiveThreshold != time.Minute || !answer.Config.MemoryStorage {
		t.Errorf("the answer is %+v", answer)
	}
	if len(heard) > 0 {
		t.Errorf("the server heard %q", (<-heard).Data)
	}

	// The control: with the rights of the server it delivers to the server.
	control := request(func(c *server.ConsumerConfig) { c.DeliverSubject, c.Name = "_INBOX_server.x", "forger" })
	if answer := ask(t, b.Core, "$JS.API.CONSUMER.CREATE.KV_device-info.forger", control); answer.Error != nil {
		t.Fatalf("the answer is %+v", answer.Error)
	}
	if m := <-heard; string(m.Data) != "forged" {
		t.Errorf("the control got %q", m.Data)
	}
}

// What the server's own parts watch with is neither changed nor deleted.
func TestReaderLeavesOtherConsumersAlone(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	w, err := b.Buckets.Info.WatchAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-w.Updates() // the end of what was there
	js, err := jetstream.New(b.Core)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_device-info")
	if err != nil {
		t.Fatal(err)
	}
	name := <-stream.ConsumerNames(t.Context()).Name()
	conn := reader(t, b)
	if answer := ask(t, conn, "$JS.API.CONSUMER.DELETE.KV_device-info."+name, nil); answer.Error == nil {
		t.Error("a reader deletes the server's consumer")
	}
	// The same but for where it delivers to, which NATS would change.
	var info server.JSApiConsumerInfoResponse
	m, err := conn.Request("$JS.API.CONSUMER.INFO.KV_device-info."+name, nil, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	config := *info.Config
	config.DeliverSubject = "_INBOX.x"
	for _, action := range []server.ConsumerAction{server.ActionCreateOrUpdate, server.ActionUpdate, server.ActionCreate} {
		req := server.CreateConsumerRequest{Stream: "KV_device-info", Action: action, Config: config}
		if answer := ask(t, conn, "$JS.API.CONSUMER.CREATE.KV_device-info."+name+"."+config.FilterSubject, req); answer.Error == nil {
			t.Errorf("a reader takes the server's consumer over, action %v", action)
		}
	}
	brokertest.Put(t, b.Buckets.Info, "info.edge-1", "seen")
	if e := <-w.Updates(); e == nil || string(e.Value()) != "seen" {
		t.Errorf("the server's watch got %v", e)
	}
	if err := w.Stop(); err != nil {
		t.Error(err)
	}
}

func TestReadersLeaveConsumersForTheServer(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	conn := reader(t, b)
	for i := range 101 {
		name := fmt.Sprintf("c%d", i)
		answer := ask(t, conn, "$JS.API.CONSUMER.CREATE.KV_device-info."+name, server.CreateConsumerRequest{
			Stream: "KV_device-info", Config: server.ConsumerConfig{Name: name, DeliverSubject: "_INBOX." + name, AckPolicy: server.AckNone},
		})
		if refused := answer.Error != nil; refused != (i >= 100) {
			t.Fatalf("consumer %d: %+v", i, answer.Error)
		}
	}
	if answer := ask(t, conn, "$JS.API.CONSUMER.DELETE.KV_device-info.c1", nil); answer.Error != nil {
		t.Errorf("a reader cannot delete its own: %+v", answer.Error)
	}
}

// A connection does not outlive its certificate.
func TestReaderEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := operator(t, b, 2*time.Second, broker.ReadersGroup)
	s := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) })
	<-s.closed
	if conn, err := b.Dial(c); err == nil {
		conn.Close()
		t.Error("it gets in again")
	}
}

// A reader's certificate gives a few connections, and so many questions a second.
func TestReadersAreBounded(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	const most = 4
	conns := make([]*nats.Conn, most)
	for i := range conns {
		conns[i] = reader(t, b)
	}
	if c, err := b.Dial(operator(t, b, time.Hour, broker.ReadersGroup)); err == nil {
		c.Close()
		t.Error("one more connection than a reader may have")
	}
	conns[0].Close()
	var again *nats.Conn
	wait.For(t, "a place that was given back", 10*time.Second, 10*time.Millisecond, func() (err error) {
		again, err = b.Dial(operator(t, b, time.Hour, broker.ReadersGroup))
		return err
	})
	defer again.Close()

	conn := conns[1]
	answers := make(chan *nats.Msg, 10_000)
	sub, err := conn.ChanSubscribe("_INBOX.flood", answers)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	const asked, allowed = 5000, 1500 // the burst, and what a slow machine takes meanwhile
	for range asked {
		if err := conn.PublishRequest("$JS.API.STREAM.INFO.KV_"+wire.BucketDesiredState, "_INBOX.flood", []byte(`{"subjects_filter":">"}`)); err != nil {
			t.Fatal(err)
		}
	}
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	<-timer.C
	if n := len(answers); n == 0 || n > allowed {
		t.Errorf("%d of %d questions are answered after two seconds, want some, and at most %d", n, asked, allowed)
	}
	// Who asks a little is not held back.
	if _, err := again.Request("$JS.API.INFO", nil, time.Second); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if _, err := again.Request("$JS.API.CONSUMER.CREATE.KV_"+wire.BucketDesiredState, fmt.Appendf(nil, `{"stream_name":%q,"config":{"deliver_subject":"_INBOX.x","ack_policy":"none","filter_subjects":[%s"$KV.a"]}}`,
		"KV_"+wire.BucketDesiredState, strings.Repeat(`"$KV.b",`, 100)), time.Second); err != nil {
		t.Error(err)
	}
}
