package attack_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	stream = "KV_" + wire.BucketDesiredState
	// bytesOfAttacker and bytesOfVictim are what the two keys hold.
	bytesOfAttacker = "bytes of the attacker"
	bytesOfVictim   = "bytes of the victim"
	// watchInbox is where the victim hears of its keys. A push consumer delivers
	// to a subject that someone has subscribed to literally.
	watchInbox = "v.watch"
)

// keySubject is what a device's key of the bucket is on the bus.
func keySubject(device string) string {
	return "$KV." + wire.BucketDesiredState + "." + device + ".default." + device
}

// bucketAttack gets past permissions that confine a device to its own keys: what
// JetStream does on a device's behalf is not confined. It knows how to tell
// whether it succeeded.
type bucketAttack struct {
	name string
	// subject is the one that the server has to refuse.
	subject func(me string) string
	do      func(t *testing.T, c *nats.Conn, me, victim, subject string)
	// succeeded looks at what the attacker and the victim heard and at the
	// victim's key, nil when it is gone.
	succeeded func(heard, victimHeard []*nats.Msg, key []byte) bool
}

var bucketAttacks = []bucketAttack{
	{
		name:    "acknowledgement into another's key",
		subject: keySubject,
		do: func(t *testing.T, c *nats.Conn, _, victim, subject string) {
			must(t, c.PublishRequest(subject, keySubject(victim), []byte(bytesOfAttacker)))
		},
		succeeded: func(_, _ []*nats.Msg, key []byte) bool { return strings.Contains(string(key), `"stream"`) },
	},
	{
		name:    "direct get into another's key",
		subject: func(me string) string { return "$JS.API.DIRECT.GET." + stream + "." + keySubject(me) },
		do: func(t *testing.T, c *nats.Conn, me, victim, subject string) {
			store(c, me)
			must(t, c.PublishRequest(subject, keySubject(victim), nil))
		},
		succeeded: func(_, _ []*nats.Msg, key []byte) bool { return string(key) == bytesOfAttacker },
	},
	{
		name:    "rollup of the whole bucket",
		subject: keySubject,
		do: func(t *testing.T, c *nats.Conn, _, _, subject string) {
			must(t, c.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"Nats-Rollup": {"all"}}, Data: []byte(bytesOfAttacker)}))
		},
		succeeded: func(_, _ []*nats.Msg, key []byte) bool { return key == nil },
	},
	{
		name:    "bare direct get of everything",
		subject: func(string) string { return "$JS.API.DIRECT.GET." + stream },
		do: func(t *testing.T, c *nats.Conn, me, _, subject string) {
			must(t, c.PublishRequest(subject, "_INBOX_"+me+".a", []byte(`{"multi_last":["$KV.`+wire.BucketDesiredState+`.>"]}`)))
		},
		succeeded: func(heard, _ []*nats.Msg, key []byte) bool { return contains(heard, string(key)) },
	},
	{
		name:    "names of all keys",
		subject: func(string) string { return "$JS.API.STREAM.INFO." + stream },
		do: func(t *testing.T, c *nats.Conn, me, _, subject string) {
			must(t, c.PublishRequest(subject, "_INBOX_"+me+".a", []byte(`{"subjects_filter":">"}`)))
		},
		succeeded: func(heard, _ []*nats.Msg, _ []byte) bool { return contains(heard, "victim") },
	},
	{
		name:    "push consumer to another's inbox",
		subject: func(me string) string { return "$JS.API.CONSUMER.CREATE." + stream + "." + me + "." + keySubject(me) },
		do: func(t *testing.T, c *nats.Conn, me, victim, subject string) {
			store(c, me)
			config, err := json.Marshal(map[string]any{"stream_name": stream, "config": map[string]any{
				"name": me, "deliver_subject": "_INBOX_" + victim + "." + watchInbox, "filter_subject": keySubject(me),
				"deliver_policy": "last", "ack_policy": "none", "inactive_threshold": time.Minute,
			}})
			must(t, err)
			must(t, c.PublishRequest(subject, "_INBOX_"+me+".a", config))
		},
		succeeded: func(_, victimHeard []*nats.Msg, _ []byte) bool { return contains(victimHeard, bytesOfAttacker) },
	},
}

// store writes the device's own key; where that is refused there is no answer.
func store(c *nats.Conn, me string) {
	const patience = 300 * time.Millisecond
	_, _ = c.Request(keySubject(me), []byte(bytesOfAttacker), patience)
}

func contains(msgs []*nats.Msg, text string) bool {
	for _, m := range msgs {
		if text != "" && strings.Contains(string(m.Data), text) {
			return true
		}
	}
	return false
}

// template is a NATS server as one would set it up for devices that use the
// buckets themselves: each may write its own keys and call JetStream.
func template(t *testing.T) (url string) {
	t.Helper()
	user := func(name string) *server.User {
		return &server.User{Username: name, Password: name, Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"$KV." + wire.BucketDesiredState + "." + name + ".>", "$JS.API.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"$KV." + wire.BucketDesiredState + "." + name + ".>", "_INBOX_" + name + ".>"}},
		}}
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "operator", Password: "operator"}, user("attacker"), user("victim")},
	})
	must(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(startTimeout) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

func login(t *testing.T, url, name string) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(url, nats.UserInfo(name, name), nats.CustomInboxPrefix("_INBOX_"+name))
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// Each attack succeeds where devices are confined to their own keys: so these
// are attacks, and the suite would see them succeed.
func TestBucketAttacksSucceedOnAKeyTemplate(t *testing.T) {
	t.Parallel()
	for _, attack := range bucketAttacks {
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			url := template(t)
			js, err := jetstream.New(login(t, url, "operator"))
			must(t, err)
			kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: wire.BucketDesiredState})
			must(t, err)
			_, err = kv.Put(t.Context(), "victim.default.victim", []byte(bytesOfVictim))
			must(t, err)
			attacker, victim := login(t, url, "attacker"), login(t, url, "victim")
			heard, victimHeard := hearing(t, attacker, "_INBOX_attacker.>"), hearing(t, victim, "_INBOX_victim."+watchInbox)
			attack.do(t, attacker, "attacker", "victim", attack.subject("attacker"))
			var all, victims []*nats.Msg
			eventually(t, "succeeding", func() error {
				all, victims = drain(heard, all), drain(victimHeard, victims)
				var key []byte
				if e, err := kv.Get(t.Context(), "victim.default.victim"); err == nil {
					key = e.Value()
				}
				if !attack.succeeded(all, victims, key) {
					return fmt.Errorf("the attacker heard %s, the victim %s, its key is %q", texts(all), texts(victims), key)
				}
				return nil
			})
		})
	}
}

// hearing subscribes, and returns when the server knows.
func hearing(t *testing.T, c *nats.Conn, subject string) chan *nats.Msg {
	t.Helper()
	msgs := make(chan *nats.Msg, 1000)
	_, err := c.ChanSubscribe(subject, msgs)
	must(t, err)
	must(t, c.Flush())
	return msgs
}

func texts(msgs []*nats.Msg) []string {
	var out []string
	for _, m := range msgs {
		out = append(out, string(m.Data))
	}
	return out
}

// drain appends what came so far.
func drain(from chan *nats.Msg, to []*nats.Msg) []*nats.Msg {
	for {
		select {
		case m := <-from:
			to = append(to, m)
		default:
			return to
		}
	}
}

// attacks are the same on the server: a device there has no JetStream.
func (a *arena) bucketAttacks() []attack {
	var all []attack
	for _, b := range bucketAttacks {
		all = append(all, attack{
			name:    b.name,
			outcome: publishRefused,
			do: func(t *testing.T, d *device) {
				victim := a.victims[0]
				unasked := victim.heard()
				heard := d.listen(d.inbox(">"))
				b.do(t, d.conn, d.name, victim.name, b.subject(d.name))
				d.refused("publish", b.subject(d.name))
				key, err := a.ready.Buckets.DesiredState.Get(t.Context(), victim.name+".default."+victim.name)
				if err != nil {
					t.Fatalf("the victim's key: %v", err)
				}
				if b.succeeded(drain(heard, nil), make([]*nats.Msg, 0), key.Value()) || victim.heard() != unasked {
					t.Error("the attack succeeded")
				}
			},
		})
	}
	return all
}
