package credential_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// life is that of a certificate: short, because an agent writes every hour.
const life = 40 * 24 * time.Hour

var errOffline = errors.New("no route to host")

// device is a device with a server in memory: it is both credential.Server and
// credential.Link.
type device struct {
	t    *testing.T
	dir  string
	keys keystore.Storage
	ca   *ecdsa.PrivateKey

	manager *credential.Manager
	stop    func()

	mu sync.Mutex // guards what follows
	// fail is what renewals and questions about the time end with.
	fail error
	// refuse decides which certificates are let in; nil for all.
	refuse func(*x509.Certificate) error
	// refused decides which certificates are not renewed; nil for none.
	refused func(*x509.Certificate) bool
	// asked has the public keys and times of the requests.
	asked   []crypto.PublicKey
	times   []time.Time
	learned int
	// automatic: a forced connection is made at once.
	automatic bool
	// mute: the server lets the device in and accepts no snapshot request.
	mute    bool
	revoked []wire.Revocation
}

// onDevice runs a test in a bubble of fake time, on a device that enrolled now.
func onDevice(t *testing.T, test func(*device)) {
	t.Helper()
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d := &device{t: t, dir: dir, ca: ca, keys: keystore.File{}, automatic: true}
		d.enroll("first")
		d.start()
		defer func() { d.stop() }()
		test(d)
	})
}

func (d *device) store() *store.Store {
	d.t.Helper()
	s, err := store.Open(d.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// certificate is one of the fleet that begins now.
func (d *device) certificate(public crypto.PublicKey) string {
	d.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now(), NotAfter: time.Now().Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, d.ca)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (d *device) enroll(enrollment string) {
	d.t.Helper()
	key, err := d.keys.Create()
	if err != nil {
		d.t.Fatal(err)
	}
	cert := d.certificate(key.Public())
	err = d.store().SaveIdentity(&store.Identity{
		Device: "pi-1", Enrollment: enrollment, Server: "https://gateway:8443", Key: key.Text(), Certificate: cert, Root: cert, Servers: []string{"tls://gateway:4222"},
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// start starts an agent on what the device has, and connects.
func (d *device) start() {
	d.t.Helper()
	m, err := credential.Load(credential.Config{
		Store: d.store(), Keys: d.keys, Clock: clock.New(clock.Config{Keeper: d.store()}), Server: d, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.manager = m
	d.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		m.Run(ctx, d, func(r wire.Revocation) { d.look(func() { d.revoked = append(d.revoked, r) }) })
	}()
	d.connect()
}

// connect is one attempt to connect, and what follows from it.
func (d *device) connect() {
	d.t.Helper()
	d.attempt()
	synctest.Wait()
}

func (d *device) attempt() {
	cert, err := d.manager.Certificate()
	if err != nil {
		d.t.Error(err)
		return
	}
	var refusal error
	d.look(func() {
		if d.refuse != nil {
			refusal = d.refuse(cert.Leaf)
		}
	})
	d.manager.Attempted(refusal)
	var mute bool
	d.look(func() { mute = d.mute })
	if refusal == nil && !mute {
		d.manager.Answered()
	}
}

// Reconnect implements credential.Link.
func (d *device) Session() string { return "00000000000000a1" }

func (d *device) Reconnect() error {
	var automatic bool
	d.look(func() { automatic = d.automatic })
	if automatic {
		go d.attempt()
	}
	return nil
}

// Renew implements credential.Server.
func (d *device) Renew(_ context.Context, r enroll.Renewal) (*enroll.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked, d.times = append(d.asked, r.Next.Public()), append(d.times, time.Now())
	if d.fail != nil {
		return nil, d.fail
	}
	if d.refused != nil && d.refused(r.Present.Leaf) {
		return nil, &enroll.RevokedError{Refusal: &wire.Refusal{Code: wire.RefusedRevoked, Message: "revoked"}, Revocation: wire.RevocationWipe}
	}
	cert := d.certificate(r.Next.Public())
	return &enroll.Result{Device: r.Device, Certificate: cert, Root: cert, Servers: []string{"tls://moved:4222"}}, nil
}

// Learn implements credential.Server.
func (d *device) Learn(context.Context, *clock.Clock, string, *x509.CertPool, *tls.Certificate) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learned++
	return d.fail
}

// look runs f while the device stands still.
func (d *device) look(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *device) pass(t time.Duration) {
	time.Sleep(t)
	synctest.Wait()
}

func (d *device) requests() (n int) {
	d.look(func() { n = len(d.asked) })
	return n
}

func (d *device) identity() *store.Identity {
	d.t.Helper()
	id, err := d.store().Identity()
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

func (d *device) hasPrevious() bool {
	_, ok := d.store().PreviousIdentity(d.identity())
	return ok
}

// refuseAllBut lets in one certificate.
func refuseAllBut(good *x509.Certificate) func(*x509.Certificate) error {
	return func(c *x509.Certificate) error {
		if good != nil && c.Equal(good) {
			return nil
		}
		return link.ErrRefused
	}
}

func (d *device) leaf() *x509.Certificate {
	d.t.Helper()
	cert, err := d.manager.Certificate()
	if err != nil {
		d.t.Fatal(err)
	}
	return cert.Leaf
}

func TestRenewalIsSpread(t *testing.T) {
	t.Parallel()
	now := time.Now()
	seen := map[time.Time]bool{}
	for i := range 100 {
		c := &x509.Certificate{Raw: []byte{byte(i)}, NotBefore: now, NotAfter: now.Add(life)}
		at := credential.RenewalTime(c)
		if at.Before(now.Add(life/2)) || at.After(now.Add(life/2+life/10)) {
			t.Errorf("renewed after %v", at.Sub(now))
		}
		if !at.Equal(credential.RenewalTime(c)) {
			t.Error("a restart changes the time")
		}
		seen[at] = true
	}
	if len(seen) < 100 {
		t.Errorf("100 devices renew at %d times", len(seen))
	}
}

func TestRenewalAfterHalfOfTheLife(t *testing.T) {
	onDevice(t, func(d *device) {
		before := d.identity()
		d.pass(life/2 - time.Hour)
		if d.requests() > 0 {
			t.Fatal("renewed early")
		}
		d.look(func() { d.automatic = false })
		d.pass(life / 10)
		d.pass(2 * time.Hour)
		after := d.identity()
		if d.requests() != 1 || after.Certificate == before.Certificate || after.Key == before.Key || after.Root == before.Root || after.Enrollment != "first" {
			t.Fatalf("%d requests, identity %+v", d.requests(), after)
		}
		if !d.hasPrevious() {
			t.Error("the previous identity is gone before the new one was used")
		}
		d.connect()
		if d.hasPrevious() {
			t.Error("the previous identity stays")
		}
		if s := d.manager.Status(); s.Err != nil || time.Until(s.Expires) < life/2 {
			t.Errorf("status %+v", s)
		}
		d.pass(life / 3)
		if d.requests() != 1 {
			t.Errorf("%d requests", d.requests())
		}
	})
}

// A connection alone says little: the server takes a new key for the device's once
// it has accepted a snapshot request over it. Until then the old one may be needed.
func TestPreviousIdentityIsKeptUntilTheServerAnswers(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() { d.mute = true })
		d.pass(life/2 + life/10 + time.Hour)
		if d.requests() != 1 || !d.hasPrevious() {
			t.Fatalf("%d requests, previous identity %v", d.requests(), d.hasPrevious())
		}
		d.look(func() { d.mute = false })
		d.connect()
		if d.hasPrevious() {
			t.Error("the previous identity is kept after an answer")
		}
	})
}

// A new key that the server does not take is no revocation: the device makes
// another.
func TestRefusedKeyIsReplaced(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() { d.fail = &wire.Refusal{Code: wire.RefusedKey, Message: "make another"} })
		d.pass(life/2 + life/10 + time.Hour)
		d.look(func() { d.fail = nil })
		d.pass(7 * time.Hour)
		n := d.requests()
		first, last := d.asked[0].(*ecdsa.PublicKey), d.asked[n-1]
		if n < 2 || first.Equal(last) || len(d.revoked) > 0 {
			t.Errorf("%d requests, revoked %v", n, d.revoked)
		}
		if key, err := d.keys.Load(d.identity().Key); err != nil || first.Equal(key.Public()) {
			t.Errorf("the key that was refused is in use: %v", err)
		}
	})
}

func TestExpiredAtTheStart(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		d.pass(3 * life)
		d.start()
		d.pass(time.Second)
		if d.requests() != 1 || time.Until(d.leaf().NotAfter) < life-time.Minute {
			t.Errorf("%d requests, certificate until %v", d.requests(), d.leaf().NotAfter)
		}
	})
}

// TestTheSameKeyAsksAgain: after failures and after a power cut.
func TestTheSameKeyAsksAgain(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() { d.fail = errOffline })
		d.pass(life)
		n := d.requests()
		d.stop()
		d.start()
		d.pass(time.Hour)
		if n < 2 || d.requests() <= n {
			t.Fatalf("%d and %d requests", n, d.requests())
		}
		first, ok := d.asked[0].(*ecdsa.PublicKey)
		for _, key := range d.asked {
			if !ok || !first.Equal(key) {
				t.Fatal("another key asked")
			}
		}
		if s := d.manager.Status(); !errors.Is(s.Err, errOffline) {
			t.Errorf("status %+v", s)
		}
		d.look(func() { d.fail = nil })
		d.pass(6 * time.Hour)
		if key, err := d.keys.Load(d.identity().Key); err != nil || !first.Equal(key.Public()) {
			t.Errorf("another key was certified: %v", err)
		}
		if s := d.manager.Status(); s.Err != nil {
			t.Errorf("status %+v", s)
		}
	})
}

func TestFailedRenewalsBackOff(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() { d.fail = errOffline })
		d.pass(life)
		gaps := map[bool]int{}
		for i := 1; i < len(d.times); i++ {
			gap := d.times[i].Sub(d.times[i-1])
			if gap < time.Minute || gap > 6*time.Hour {
				t.Errorf("a pause of %v", gap)
			}
			gaps[gap > time.Hour]++
		}
		if gaps[true] < 50 || d.times[1].Sub(d.times[0]) > 2*time.Minute {
			t.Errorf("%v: pauses do not grow", gaps)
		}
	})
}

// TestRefusedCertificateIsNotUsed: the previous one comes back, on the disk too,
// and the renewal is tried again later with another key.
func TestRefusedCertificateIsNotUsed(t *testing.T) {
	onDevice(t, func(d *device) {
		old := d.leaf()
		d.look(func() { d.refuse = refuseAllBut(old) })
		before := d.identity()
		d.pass(life/2 + life/10)
		d.connect() // the link's own next attempt
		if !d.leaf().Equal(old) || d.identity().Certificate != before.Certificate || d.hasPrevious() {
			t.Fatal("the device did not go back to what worked")
		}
		if s := d.manager.Status(); s.Err == nil || !strings.Contains(s.Err.Error(), "refused") {
			t.Errorf("status %+v", s)
		}
		n := d.requests()
		d.look(func() { d.refuse = nil })
		d.pass(12 * time.Hour)
		if d.requests() != n+1 || d.leaf().Equal(old) {
			t.Errorf("%d more requests", d.requests()-n)
		}
	})
}

// TestRootsThatLockOut: a server that ends in none of the new roots is no other
// than one that refuses.
func TestRootsThatLockOut(t *testing.T) {
	onDevice(t, func(d *device) {
		old := d.leaf()
		d.look(func() {
			d.refuse = func(c *x509.Certificate) error {
				if c.Equal(old) {
					return nil
				}
				return x509.UnknownAuthorityError{}
			}
		})
		d.pass(life/2 + life/10)
		d.connect()
		if !d.leaf().Equal(old) || d.hasPrevious() {
			t.Error("the device did not go back to what worked")
		}
	})
}

// TestPowerCutBeforeTheNewCertificateWasUsed: the previous one is still there.
func TestPowerCutBeforeTheNewCertificateWasUsed(t *testing.T) {
	onDevice(t, func(d *device) {
		old := d.leaf()
		d.look(func() { d.automatic, d.refuse = false, refuseAllBut(old) })
		d.pass(life/2 + life/10)
		d.stop()
		d.start() // is refused
		d.connect()
		if !d.leaf().Equal(old) || d.hasPrevious() {
			t.Error("the device did not go back to what worked")
		}
	})
}

func TestUnprovenCertificatesTakeTurns(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() { d.automatic, d.refuse, d.fail = false, refuseAllBut(nil), nil })
		d.pass(life/2 + life/10)
		fresh := d.leaf()
		d.look(func() { d.fail = errOffline })
		for range 3 {
			d.connect()
		}
		d.look(func() { d.refuse = refuseAllBut(fresh) })
		d.connect()
		d.connect()
		if !d.leaf().Equal(fresh) || d.hasPrevious() {
			t.Error("the new certificate was given up")
		}
	})
}

// TestARefusingServerIsAskedWhy: its listener says whether the device was revoked.
func TestARefusingServerIsAskedWhy(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() {
			d.refuse = refuseAllBut(nil)
			d.fail = &enroll.RevokedError{Refusal: &wire.Refusal{Code: wire.RefusedRevoked, Message: "revoked"}, Revocation: wire.RevocationStop}
		})
		d.connect()
		if d.requests() > 0 {
			t.Error("asked after one refusal")
		}
		d.connect()
		d.look(func() {
			if len(d.revoked) != 1 || d.revoked[0] != wire.RevocationStop {
				t.Errorf("told %q", d.revoked)
			}
		})
		for range 24 * 60 {
			d.connect()
			d.pass(time.Minute)
		}
		for i := 1; i < len(d.times); i++ {
			if gap := d.times[i].Sub(d.times[i-1]); gap < time.Minute || gap > 61*time.Minute {
				t.Errorf("a pause of %v", gap)
			}
		}
		if n := d.requests(); n < 24 || n > 100 {
			t.Errorf("asked %d times in a day", n)
		}
	})
}

// TestOnlyTheReplacedKeyIsRefused: the server refused the old key because the
// new one was used, though the device never heard of that. It must not wipe itself.
func TestOnlyTheReplacedKeyIsRefused(t *testing.T) {
	for name, both := range map[string]bool{"the old one": false, "both": true} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				old := d.leaf()
				d.look(func() { d.automatic, d.refuse = false, refuseAllBut(nil) })
				d.pass(life/2 + life/10)
				d.look(func() {
					d.fail = errOffline
					d.refused = func(c *x509.Certificate) bool { return both || c.Equal(old) }
				})
				for !d.leaf().Equal(old) || d.requests() < 2 { // until it is the old one's turn, and the server is to be asked
					d.connect()
				}
				d.look(func() { d.fail = nil })
				d.pass(2 * time.Hour)
				d.look(func() {
					if told := len(d.revoked) > 0; told != both {
						t.Errorf("told %q", d.revoked)
					}
				})
			})
		})
	}
}

func TestTheNetworkIsNoRefusal(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() { d.refuse = func(*x509.Certificate) error { return errOffline } })
		for range 100 {
			d.connect()
			d.pass(time.Minute)
		}
		if d.requests() > 0 || d.learned > 0 {
			t.Errorf("%d requests", d.requests())
		}
	})
}

func TestUntimelyServerCorrectsTheClock(t *testing.T) {
	onDevice(t, func(d *device) {
		d.look(func() {
			d.fail = errOffline
			d.refuse = func(*x509.Certificate) error { return x509.CertificateInvalidError{Reason: x509.Expired} }
		})
		for range 60 {
			d.connect()
			d.pass(time.Minute)
		}
		if d.learned < 2 || d.learned > 20 {
			t.Errorf("the server was asked for the time %d times in an hour", d.learned)
		}
		d.look(func() {
			d.fail = nil
			d.refuse = nil // the next connection, which is forced, succeeds
		})
		d.pass(time.Hour)
		before := d.learned
		d.pass(24 * time.Hour)
		if d.learned != before {
			t.Error("the time is asked for although there is a connection")
		}
	})
}

func TestNewEnrollmentIsNotOverwritten(t *testing.T) {
	onDevice(t, func(d *device) {
		d.enroll("second")
		want := d.identity()
		d.pass(life/2 + life/10)
		if d.requests() == 0 || d.identity().Certificate != want.Certificate || d.hasPrevious() {
			t.Error("the agent of the first enrollment replaced the second")
		}
		if s := d.manager.Status(); s.Err == nil || !strings.Contains(s.Err.Error(), "restart") {
			t.Errorf("status %+v", s)
		}
	})
}

func TestKeysThatCannotBeMade(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		d.keys = keystore.Any{New: &keystore.TPM{Path: filepath.Join(d.dir, "none")}}
		d.start()
		d.pass(life)
		if s := d.manager.Status(); !errors.Is(s.Err, keystore.ErrNoTPM) || d.requests() > 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestLoadNeedsAnIdentity(t *testing.T) {
	t.Parallel()
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg := credential.Config{Store: s, Keys: keystore.File{}, Clock: clock.New(clock.Config{}), Server: credential.Listener{}, Log: slog.New(slog.DiscardHandler)}
	for name, id := range map[string]*store.Identity{"none": nil, "not finished": {Device: "pi-1", Key: "k"}} {
		if id != nil {
			if err := s.SaveIdentity(id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := credential.Load(cfg); !errors.Is(err, store.ErrNoIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
