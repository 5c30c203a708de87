package integration_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// Tombstones of keys that were renewed long ago are merged, while the server
// runs on. None of these keys comes back: not by renewal, however old its
// certificate is, not with a token, and not after the restore of a store in which
// it is the device's own.
func TestMergedKeysStayOutAfterARestore(t *testing.T) {
	t.Parallel()
	c := &calendar{}
	s := newServer(t, c.use)
	token := s.tokenForEver()
	h := s.holder("edge-1").enroll(token)
	h.connect().settle()
	backup := s.backup() // it knows the first key
	first := *h
	revoked := s.holder("edge-2").enroll(token)
	revoked.connect().settle()
	s.editDevice("edge-2", func(d *v1alpha1.Device) { d.Spec.Revoked = true })
	old := []holder{first}
	for range 4 {
		next := newKey(t)
		h.take(h.renew(next), next)
		h.connect().settle()
		s.usesKey(h)
		old = append(old, *h)
		s.off(c)
	}
	h.take(h.renew(h.key), h.key)
	h.connect().settle()
	s.usesKey(h)
	eventually(t, "the end of the certificate in the store", func() error {
		d, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil || d.Status.CertificateExpires == nil || d.Status.CertificateExpires.Before(&metav1.Time{Time: c.now()}) {
			return fmt.Errorf("it is %+v, %w", d.Status.CertificateExpires, err)
		}
		return nil
	})
	s.stop()
	s.start() // and compacts
	list := filepath.Join(s.config.DataDir, "revoked-keys.jsonl")
	eventually(t, "the merged tombstone", func() error {
		data, err := os.ReadFile(list)
		if err == nil && (!strings.Contains(string(data), "certificatesUntil") || strings.Contains(string(data), keyOf(t, &first))) {
			err = fmt.Errorf("the list is %s", data)
		}
		return err
	})
	out := func(when string) {
		t.Helper()
		for i, o := range old[:len(old)-1] {
			if reply := o.renew(newKey(t)); reply.Error == nil || reply.Certificate != "" {
				t.Errorf("%s, key %d is renewed: %+v", when, i, reply)
			}
			if reply := o.ask(token); reply.Error == nil || reply.Certificate != "" {
				t.Errorf("%s, key %d enrolls: %+v", when, i, reply)
			}
			o.expired()
		}
		wantError(t, revoked.renew(newKey(t)), wire.RefusedRevoked, "revoked")
		wantError(t, revoked.ask(token), wire.RefusedRevoked, "revoked")
	}
	out("merged")
	h.connect().settle() // the control
	s.restore(backup)
	token = s.tokenForEver() // the restore ends those of before
	out("after the restore")
	h.refused() // newer than the store: it asks to be approved
	s.approve("edge-1")
	eventually(t, "the device to be let in", func() error {
		c, err := h.dial()
		if err == nil {
			c.Close()
		}
		return err
	})
	out("approved")
}

// usesKey waits until the device's only key is the holder's.
func (s *server) usesKey(h *holder) {
	s.t.Helper()
	eventually(s.t, "the key of "+h.name, func() error {
		d, err := s.client().Devices().Get(s.t.Context(), h.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		spki, err := x509.MarshalPKIXPublicKey(h.key.Public())
		if err != nil {
			return err
		}
		if e := d.Spec.Enrollment; e.KeyFingerprint != wire.Sum(spki).String() || e.NextKeyFingerprint != "" {
			return fmt.Errorf("it is %+v", e)
		}
		return nil
	})
}

// tokenForEver is a token that works in a hundred years.
func (s *server) tokenForEver() string {
	s.t.Helper()
	return s.tokenUntil(time.Now().AddDate(100, 0, 0), nil)
}

func (c *calendar) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }
