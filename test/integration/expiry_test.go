package integration_test

import (
	"crypto/ecdsa"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/clock"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// calendar is a clock that a test puts forward. It is the machine's otherwise.
type calendar struct{ ahead atomic.Int64 }

func (c *calendar) use(config *embedserver.Config) {
	config.Clock = clock.Source{
		Wall:    func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) },
		Elapsed: clock.System.Elapsed,
	}
}

// off switches the server off for a time that makes every certificate of a
// device expire: for half of it, and again, since a server does not believe that it
// was away for longer than certificates last.
func (s *server) off(c *calendar) {
	s.t.Helper()
	for range 2 {
		s.stop()
		c.ahead.Add(int64(pki.DeviceValidity/2 + 24*time.Hour))
		s.start()
	}
}

// A certificate that has expired lets nobody connect, but its key renews it,
// however long ago that was; unless the device was revoked.
func TestExpiredCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	c := &calendar{}
	s := newServer(t, c.use)
	token := s.token(map[string]string{"group": "a"})
	s.create(deployment("web", "a"))
	same, other, revoked := s.holder("same-key").enroll(token), s.holder("other-key").enroll(token), s.holder("revoked").enroll(token)
	for _, h := range []*holder{same, other, revoked} {
		h.connect().settle()
	}
	whole := s.agentIdentity("agent", token)
	s.editDevice("revoked", func(d *v1alpha1.Device) {
		d.Spec.Revoked, d.Spec.OnRevoke = true, v1alpha1.RevocationPolicy(wire.RevocationStop)
	})
	eventually(t, "the tombstone", func() error {
		data, err := os.ReadFile(filepath.Join(s.config.DataDir, "revoked-keys.jsonl"))
		if err == nil && !strings.Contains(string(data), `"revoked"`) {
			err = errors.New("not there")
		}
		return err
	})
	s.off(c)

	before := *other
	for _, h := range []*holder{same, other, revoked} {
		h.expired()
	}
	next := newKey(t)
	same.take(same.renew(same.key), same.key)
	other.take(other.renew(next), next)
	for _, h := range []*holder{same, other} {
		d := h.connect()
		d.settle()
		if r := d.snapshot(); r.Error != nil || r.Manifest == nil || len(r.Manifest.Entries) != 1 {
			t.Errorf("%s is answered %+v", h.name, r)
		}
	}
	wantError(t, before.renew(newKey(t)), wire.RefusedRevoked, "") // its next key is in use
	for _, key := range []*ecdsa.PrivateKey{revoked.key, newKey(t)} {
		reply := revoked.renew(key)
		wantError(t, reply, wire.RefusedRevoked, "revoked")
		if reply.Revocation != wire.RevocationStop {
			t.Errorf("it is told %q", reply.Revocation)
		}
	}
	revoked.expired()
	whole.renews()
}

// expired wants the server to refuse every connection for the certificate's
// time.
func (h *holder) expired() {
	h.s.t.Helper()
	c, err := h.dial()
	switch {
	case err == nil:
		c.Close()
		h.s.t.Errorf("device %s is let in with an expired certificate", h.name)
	case errors.Is(err, nats.ErrAuthorization):
		h.s.t.Errorf("device %s is refused for another reason: %v", h.name, err)
	}
}

// renews starts what looks after an agent's credentials, with a certificate that
// has expired, and waits until it is connected with the next.
func (a *agentIdentity) renews() {
	a.t.Helper()
	old, err := a.store.Identity()
	if err != nil {
		a.t.Fatal(err)
	}
	l := a.connect()
	if _, err := l.Snapshot(a.t.Context(), wire.SnapshotRequest{}); err != nil {
		a.t.Error(err)
	}
	now, err := a.store.Identity()
	if err != nil {
		a.t.Fatal(err)
	}
	key, err := keystore.File{}.Load(now.Key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, _, err := now.TLS(key)
	if err != nil {
		a.t.Fatal(err)
	}
	if old.Key == now.Key || !cert.Leaf.NotAfter.After(a.config.Clock.Wall()) {
		a.t.Errorf("the certificate expires at %s, and has the old key: %v", cert.Leaf.NotAfter, old.Key == now.Key)
	}
}
