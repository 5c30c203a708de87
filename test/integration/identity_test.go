package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// deviceCondition waits for a condition of a Device.
func (s *server) deviceCondition(name, typ string, status metav1.ConditionStatus) {
	s.t.Helper()
	eventually(s.t, name+" "+typ, func() error {
		d, err := s.client().Devices().Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := meta.FindStatusCondition(d.Status.Conditions, typ); c == nil || c.Status != status {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

func wantError(t *testing.T, reply wire.EnrollReply, code wire.RefusalCode, says string) {
	t.Helper()
	if reply.Error == nil || reply.Error.Code != code || !strings.Contains(reply.Error.Message, says) || reply.Certificate != "" {
		t.Errorf("answer is %+v, want %s that says %q", reply.Error, code, says)
	}
}

func TestRenewalWithANewKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	before := *h
	first := h.connect()
	first.settle()

	next := newKey(t)
	reply := h.renew(next)
	// A power cut before the answer was kept: the same key asks again.
	again := h.renew(next)
	first.leaves()
	old := before.connect() // the old certificate is good until the device has proven itself with the new one
	h.take(reply, next)
	c := h.connect()
	if err := old.Flush(); err != nil {
		t.Errorf("a connection alone makes the new key the only one: %v", err)
	}
	c.settle()
	old.ends()
	eventually(t, "the key of the object", func() error {
		d, err := s.client().Devices().Get(t.Context(), h.name, metav1.GetOptions{})
		if err != nil || d.Spec.Enrollment.NextKeyFingerprint != "" || d.Status.CertificateExpires == nil {
			return fmt.Errorf("%+v, %w", d.Spec.Enrollment, err)
		}
		return nil
	})
	before.refused()
	h.take(again, next)
	c.Close()
	c = h.connect()
	c.settle()
	wantError(t, before.renew(newKey(t)), wire.RefusedRevoked, "")

	// The other way round: a device that never used its new key goes on.
	h.renew(newKey(t))
	h.take(h.renew(h.key), h.key)
	s.stop()
	s.start()
	h.connect().settle()
}

func TestRenewalOfOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	h, stranger := s.holder("edge-1").enroll(token), s.holder("edge-2")
	wantError(t, stranger.renew(newKey(t)), wire.RefusedBadRequest, "certificate")
	foreign := newServer(t)
	other := foreign.holder("edge-1").enroll(foreign.token(nil))
	stranger.cert = other.cert
	wantError(t, stranger.renew(newKey(t)), wire.RefusedBadRequest, "certificate")
	// Nothing but the key of a request is used.
	reply := h.post(wire.PathRenew, wire.RenewRequest{CSR: "x"})
	wantError(t, reply, wire.RefusedBadRequest, "PEM")
}

func TestReplacementOfAMachine(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	old := s.holder("edge-1").enroll(s.token(map[string]string{"group": "a"}))
	c := old.connect()
	c.settle()
	wantError(t, s.holder("edge-1").ask(s.token(nil)), wire.RefusedNameTaken, "fleet-server device replace edge-1")

	token := s.token(nil)
	id := strings.Split(token, ".")[2]
	s.editToken(id, func(o *v1alpha1.EnrollmentToken) { o.Spec.Replaces = "edge-1" })
	eventually(t, "the cache of tokens", func() error {
		if reply := s.holder("edge-2").ask(token); reply.Error == nil || !strings.Contains(reply.Error.Message, "--name edge-1") {
			return fmt.Errorf("%+v", reply)
		}
		return nil
	})
	machine := s.holder("edge-1").enroll(token)
	c.ends()
	old.refused()
	machine.connect().settle()
	s.event("edge-1", "Enrolled", "with token "+id)
	d, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
	if err != nil || d.Labels["group"] != "a" {
		t.Errorf("labels are %v, %v", d.Labels, err)
	}
	wantError(t, old.renew(newKey(t)), wire.RefusedRevoked, "")
	wantError(t, old.ask(token), wire.RefusedRevoked, "another name while there is a Device edge-1")

	// One that was revoked keeps its name, and says how it becomes free.
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.Revoked = true })
	wantError(t, s.holder("edge-1").ask(s.token(nil)), wire.RefusedNameTaken, "kubectl delete fleetdev edge-1")
	wantError(t, s.holder("edge-1").ask(token), wire.RefusedNameTaken, "kubectl delete fleetdev edge-1")
}

func TestHardwareIDs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	mine, others := wire.Sum([]byte("mine")).String(), wire.Sum([]byte("others")).String()
	s.editToken(strings.Split(token, ".")[2], func(o *v1alpha1.EnrollmentToken) { o.Spec.HardwareIDs = []string{mine} })
	with := func(id string) func(*wire.EnrollRequest) {
		return func(r *wire.EnrollRequest) { r.HardwareID = id }
	}
	h := s.holder("edge-1")
	eventually(t, "the cache of tokens", func() error {
		if reply := h.ask(token, with(others)); reply.Error == nil || !strings.Contains(reply.Error.Message, "hardware-id") {
			return fmt.Errorf("%+v", reply)
		}
		return nil
	})
	wantError(t, h.ask(token), wire.RefusedToken, "hardware-id")
	wantError(t, h.ask(token, with("../x")), wire.RefusedBadRequest, "hardware-id")
	h.take(h.ask(token, with(mine)), h.key)
}

func TestRevocationIsImmediateAndLasts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	many := 20
	if os.Getenv("FLEET_ATTACK") == "full" {
		many = 100
	}
	holders := make([]*holder, many)
	for i := range holders {
		holders[i] = s.holder(fmt.Sprintf("edge-%d", i)).enroll(token)
	}
	bystander := s.holder("bystander").enroll(token)
	backup := s.backup()
	connections := make([]*connection, many)
	for i, h := range holders {
		connections[i] = h.connect()
		connections[i].settle()
	}
	other := bystander.connect()
	other.settle()

	begin := time.Now()
	var writing sync.WaitGroup
	for i, h := range holders {
		writing.Go(func() {
			patch := fmt.Appendf(nil, `{"spec":{"revoked":true,"onRevoke":"%s"}}`, []string{"Keep", "Stop", "Wipe"}[i%3])
			if _, err := s.client().Devices().Patch(s.t.Context(), h.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	written := make(chan time.Duration, 1)
	go func() { writing.Wait(); written <- time.Since(begin) }()
	for i, c := range connections {
		c.ends()
		select {
		case got := <-c.notices:
			if want := []wire.Revocation{"Keep", "Stop", "Wipe"}[i%3]; got != want {
				t.Errorf("%s is told %s, want %s", holders[i].name, got, want)
			}
		case <-time.After(waitTimeout):
			t.Errorf("%s is not told what to do", holders[i].name)
		}
	}
	took, wrote := time.Since(begin), <-written
	t.Logf("%d devices are out after %v, writing that took %v", many, took, wrote)
	if took > 2*wrote {
		t.Errorf("it took %v until %d devices were out, and %v to write that they are: want at most twice that", took, many, wrote)
	}
	out := func(when string) {
		t.Helper()
		for i, h := range holders {
			h.refused()
			if reply := h.renew(h.key); reply.Error == nil || reply.Error.Code != wire.RefusedRevoked || string(reply.Revocation) != []string{"Keep", "Stop", "Wipe"}[i%3] {
				t.Errorf("%s, %s is answered %+v", when, h.name, reply)
			}
		}
	}
	s.tombstones(many)
	out("revoked")
	s.event(holders[2].name, "Revoked", "revoked")
	if r := other.snapshot(); r.Error != nil {
		t.Errorf("a bystander is hit: %v", r.Error)
	}
	s.stop()
	s.start()
	out("after a restart")
	s.restore(backup)
	out("after the restore of a backup that knows of no revocation")
	eventually(t, "the Device to say that its key is refused", func() error {
		d, err := s.client().Devices().Get(t.Context(), holders[0].name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceConnected); c == nil || c.Reason != v1alpha1.ReasonKeyRefused {
			return fmt.Errorf("condition Connected is %+v", c)
		}
		return nil
	})
}

// A backup knows neither that a token was used since nor that it was revoked.
func TestTokensEndWithARestore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	once := func() string {
		token := s.token(nil)
		parsed, err := wire.ParseToken(token)
		if err != nil {
			t.Fatal(err)
		}
		s.editToken(parsed.ID, func(o *v1alpha1.EnrollmentToken) { o.Spec.MaxUses = 1 })
		return token
	}
	used, revoked := once(), once()
	backup := s.backup()
	h := s.holder("edge-1").enroll(used) // a restart ends no token
	h.connect().settle()
	parsed, err := wire.ParseToken(revoked)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.client().EnrollmentTokens().Delete(t.Context(), parsed.ID, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.restore(backup)
	for name, token := range map[string]string{"used": used, "revoked": revoked} {
		if reply := s.holder(name).ask(token); reply.Error == nil || reply.Error.Code != wire.RefusedToken || !strings.Contains(reply.Error.Message, "expired") {
			t.Errorf("a token that was %s since the backup is answered %+v", name, reply)
		}
	}
	fresh := once()
	s.stop()
	s.start() // no restore
	s.holder("edge-2").enroll(fresh)
}

// What an upgrade of the server relies on is written.
func TestFilesThatAnUpgradeReliesOn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ready := func() string {
		content, err := os.ReadFile(filepath.Join(s.config.DataDir, hostinstall.Server.Ready))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	first := ready()
	for _, name := range hostinstall.Server.Forward {
		if _, err := os.Stat(filepath.Join(s.config.DataDir, name)); err != nil {
			t.Error(err)
		}
	}
	s.stop()
	s.start()
	if ready() == first {
		t.Errorf("%s does not change with a start: %s", hostinstall.Server.Ready, first)
	}
}

// tombstones waits until so many keys are refused for good.
func (s *server) tombstones(many int) {
	s.t.Helper()
	eventually(s.t, "the tombstones", func() error {
		data, err := os.ReadFile(filepath.Join(s.config.DataDir, "revoked-keys.jsonl"))
		if n := strings.Count(string(data), "\n"); err != nil || n < many {
			return fmt.Errorf("%d of %d: %w", n, many, err)
		}
		return nil
	})
}

// backup copies the API store while the server is stopped.
func (s *server) backup() (dir string) {
	s.t.Helper()
	s.stop()
	dir = s.t.TempDir()
	files, err := filepath.Glob(filepath.Join(s.config.DataDir, "*.db*"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no database: %v", err)
	}
	for _, f := range files {
		copyFile(s.t, f, filepath.Join(dir, filepath.Base(f)))
	}
	s.start()
	return dir
}

// restore puts a backup of the API store back. The list of revoked keys stays.
func (s *server) restore(dir string) {
	s.t.Helper()
	s.stop()
	old, err := filepath.Glob(filepath.Join(s.config.DataDir, "*.db*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			s.t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		copyFile(s.t, f, filepath.Join(s.config.DataDir, filepath.Base(f)))
	}
	s.start()
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDevicesNewerThanTheBackupWaitForApproval(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	renewed := s.holder("renewed").enroll(token)
	renewed.connect().settle()
	before := *renewed
	backup := s.backup()

	next := newKey(t)
	renewed.take(renewed.renew(next), next)
	renewed.connect().settle()
	enrolled := s.holder("enrolled").enroll(token)
	enrolled.connect().settle()
	eventually(t, "the old key to be refused", func() error {
		c, err := before.dial()
		if err == nil {
			c.Close()
			return errors.New("it is let in")
		}
		return nil
	})
	s.restore(backup)

	for _, h := range []*holder{renewed, enrolled} {
		h.refused()
		eventually(t, "a request of "+h.name, func() error {
			r, err := s.client().EnrollmentRequests().Get(t.Context(), h.name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.RequestPending) {
				return fmt.Errorf("conditions are %v", r.Status.Conditions)
			}
			return nil
		})
		s.approve(h.name)
		eventually(t, h.name+" to be let in", func() error {
			c, err := h.dial()
			if err == nil {
				c.Close()
			}
			return err
		})
		eventually(t, "the request of "+h.name+" to go", func() error {
			_, err := s.client().EnrollmentRequests().Get(t.Context(), h.name, metav1.GetOptions{})
			if !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
	}
	before.refused()
}

// approve is what `fleet-server device approve` does.
func (s *server) approve(name string) {
	s.t.Helper()
	s.decide(name, v1alpha1.RequestApproved)
}

func TestCopyOfADeviceIsQuarantined(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	first := h.connect()
	first.settle()
	copied := *h
	copied.nonce = "00112233445566778899aabbccddeeff" // of an older disk
	first.leaves()
	thief := copied.connect()
	if r := thief.snapshot(); r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
		t.Fatalf("a copy is answered %+v", r)
	}
	thief.ends()
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
	good := h.connect()
	if r := good.snapshot(); r.Error != nil {
		t.Errorf("the device itself is answered %v", r.Error)
	}

	// After a restart of the server the suspicion is still there, and nobody gets
	// anything before it has proven itself.
	s.stop()
	s.start()
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
	thief = copied.connect()
	if r := send[wire.SecretReply](thief, wire.KindSecret, wire.SecretRequest{Namespace: "default", Name: "x"}); r.Error == nil || r.Error.Code != wire.RefusedSession {
		t.Errorf("a copy that has proven nothing is answered %+v", r)
	}
	if a := send[wire.Ack](thief, wire.KindInfo, wire.DeviceInfo{}); a.Error == nil || a.Error.Code != wire.RefusedSession {
		t.Errorf("a copy reports: %+v", a)
	}
	if r := thief.snapshot(); r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
		t.Errorf("a copy is answered %+v", r)
	}
	thief.ends()
}

// After the restore of a backup, which begins a new epoch, a device goes on with the
// nonce on its disk, and is given the next.
func TestDevicesGoOnAfterARestore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	h.fixed = deviceclient.NewSession(h.name).ID
	h.connect().settle()
	s.restore(s.backup())
	device, before := h.connect(), h.nonce
	wait.For(t, "the next nonce", waitTimeout, snapshotPace, func() error {
		r := device.snapshot()
		if r.Error != nil {
			t.Fatalf("the device is answered %v", r.Error)
		}
		if h.nonce == before {
			return errors.New("none yet")
		}
		return nil
	})
	if r := device.snapshot(); r.Error != nil {
		t.Errorf("with its next nonce the device is answered %v", r.Error)
	}
}

// A copy that is there first after a restart of the server, and floods, does not lock the
// device out, and is noticed.
func TestCopyThatFloodsLocksNobodyOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	h.fixed = deviceclient.NewSession(h.name).ID
	h.connect().settle()
	eventually(t, "the session in the status", func() error {
		d, err := s.client().Devices().Get(t.Context(), h.name, metav1.GetOptions{})
		if err != nil || d.Status.Session != wire.SessionLabel(h.fixed) {
			return fmt.Errorf("%q, %w", d.Status.Session, err)
		}
		return nil
	})
	s.stop()
	s.start()
	copied := *h
	flood := func() {
		copied.fixed = deviceclient.NewSession(h.name).ID
		c, err := copied.dial()
		if err != nil {
			return
		}
		defer c.Close()
		m, err := c.client.Message(wire.KindHeartbeat, []byte(`{"at":1}`))
		if err != nil {
			t.Error(err)
		}
		for i := 0; i < 3000 && c.IsConnected(); i++ {
			_ = c.client.Publish(m)
		}
		_ = c.Flush()
	}
	flood()
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
	flood()
	device := h.connect()
	flood()
	if r := device.snapshot(); r.Error != nil || r.Status == wire.SnapshotRetryLater {
		t.Errorf("the device is answered %+v", r)
	}
}

// A copy has the device's key, and renews its certificate by that. The device goes
// on, whatever the copy does with the new key, and the operator's decision is for
// one of the two.
func TestCopyThatRenewsThrowsNobodyOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	device := h.connect()
	device.settle()
	copied := *h
	stolen, other := newKey(t), newKey(t)
	copied.take(copied.renew(stolen), stolen)
	silent := copied.connect()
	if err := errors.Join(silent.Flush(), device.Flush()); err != nil {
		t.Errorf("after a connection with the copy's key: %v", err)
	}
	copied.take(copied.renew(other), other) // with the next key, which is not proven
	silent.ends()
	if r := device.snapshot(); r.Error != nil || r.Status == wire.SnapshotRetryLater {
		t.Fatalf("the device is answered %+v", r)
	}
	thief := copied.connect()
	eventually(t, "two that talk at the same time", func() error {
		r := thief.snapshot()
		device.snapshot()
		if r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
			return fmt.Errorf("the copy is answered %+v", r)
		}
		return nil
	})
	thief.ends()
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
	for name, who := range map[string]*holder{"the copy": &copied, "the device": h} {
		if r := who.renew(newKey(t)); r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
			t.Errorf("%s renews while a copy is suspected: %+v", name, r)
		}
	}
	s.accept(h.name, wire.SessionLabel(device.client.ID))
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionFalse)
	copied.refused()
	if r := device.snapshot(); r.Error != nil {
		t.Errorf("the device is answered %v", r.Error)
	}
	next := newKey(t)
	h.take(h.renew(next), next)
}

// The operator may find that the machine in quarantine is the device. The other is
// out then.
func TestQuarantinedSessionIsAccepted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	thief := h.connect() // was there first
	thief.settle()
	genuine := *h
	genuine.nonce = "00112233445566778899aabbccddeeff"
	thief.leaves()
	c := genuine.connect()
	if r := c.snapshot(); r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
		t.Fatalf("it is answered %+v", r)
	}
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
	s.accept(h.name, "0123456789ab")
	s.event(h.name, "NotAccepted", "no session 0123456789ab")
	s.accept(h.name, wire.SessionLabel(c.client.ID))
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionFalse)
	back := h.connect()
	if r := back.snapshot(); r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
		t.Errorf("whoever asks next is answered %+v", r)
	}
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
}

// The session that an operator accepted comes in at once, whatever connections the copy
// had, and goes on with the nonce on its disk until it has the next.
func TestAcceptedSessionGoesOn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	h.fixed = deviceclient.NewSession(h.name).ID
	thief := h.connect() // took over while the device was off
	thief.settle()
	other := h.connect()
	genuine := *h
	genuine.nonce = "00112233445566778899aabbccddeeff"
	genuine.fixed = deviceclient.NewSession(h.name).ID
	device := genuine.connect()
	wait.For(t, "two that talk at the same time", waitTimeout, snapshotPace, func() error {
		r := device.snapshot()
		thief.snapshot()
		if r.Error == nil || r.Error.Code != wire.RefusedQuarantined {
			return fmt.Errorf("the device is answered %+v", r)
		}
		return nil
	})
	device.ends()
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
	s.accept(h.name, wire.SessionLabel(genuine.fixed))
	thief.ends()
	other.ends()
	device, genuine.nonce = genuine.connect(), "00112233445566778899aabbccddeeff"
	before := genuine.nonce
	wait.For(t, "the next nonce", waitTimeout, snapshotPace, func() error {
		r := device.snapshot()
		if r.Error != nil {
			t.Fatalf("the accepted device is answered %v", r.Error)
		}
		if genuine.nonce == before {
			return errors.New("none yet")
		}
		return nil
	})
	if r := device.snapshot(); r.Error != nil {
		t.Errorf("with its next nonce the device is answered %v", r.Error)
	}
	s.deviceCondition(h.name, v1alpha1.DeviceCloneSuspected, metav1.ConditionFalse)
}

// A copy that was made before a renewal has a key that is refused. That it shows it
// is what tells of it, at either door, while the device is there and while not.
func TestRetiredKeyThatIsShownAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	for name, show := range map[string]func(copied *holder){
		"edge-bus": func(copied *holder) { copied.refused() },
		"edge-renew": func(copied *holder) {
			wantError(t, copied.renew(newKey(t)), wire.RefusedRevoked, "replaced by a renewal")
		},
	} {
		h := s.holder(name).enroll(token)
		first := h.connect()
		first.settle()
		copied := *h
		next := newKey(t)
		h.take(h.renew(next), next)
		first.leaves()
		device := h.connect()
		device.settle()
		eventually(t, "the tombstone", func() error {
			d, err := s.client().Devices().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || d.Spec.Enrollment.NextKeyFingerprint != "" {
				return fmt.Errorf("%+v, %w", d.Spec.Enrollment, err)
			}
			if meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceCloneSuspected) != nil { // the control
				t.Error("the renewal alone raises a suspicion")
			}
			return nil
		})
		for range 3 {
			show(&copied)
		}
		s.deviceCondition(name, v1alpha1.DeviceCloneSuspected, metav1.ConditionTrue)
		s.event(name, v1alpha1.DeviceCloneSuspected, "replaced by a renewal")
		if r := device.snapshot(); r.Error != nil {
			t.Errorf("the device is answered %v", r.Error)
		}
		h.take(h.renew(h.key), h.key) // a thief of an old key keeps nobody from renewing
		// Whoever has a key that is refused cannot be accepted.
		d, err := s.client().Devices().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(d.Status.Claimants) != 2 || d.Status.Claimants[1].KeyFingerprint == d.Spec.Enrollment.KeyFingerprint {
			t.Fatalf("claimants are %+v, %v", d.Status.Claimants, err)
		}
		s.accept(name, d.Status.Claimants[1].Session)
		s.event(name, "NotAccepted", "device replace "+name)
		s.accept(name, wire.SessionLabel(device.client.ID))
		s.deviceCondition(name, v1alpha1.DeviceCloneSuspected, metav1.ConditionFalse)
		show(&copied)
		if r := device.snapshot(); r.Error != nil {
			t.Errorf("the device is answered %v", r.Error)
		}
		h.take(h.renew(h.key), h.key)
	}
}

// A device that has not heard yet that its next key counts, and is refused for a
// moment, shows its previous one. That is no copy.
func TestDeviceThatTriesItsRetiredKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	first := h.connect()
	first.settle()
	before := *h
	next := newKey(t)
	h.take(h.renew(next), next)
	first.leaves()
	device := h.connect()
	device.settle()
	before.fixed, h.fixed = device.client.ID, device.client.ID
	device.leaves()
	before.refused()
	again := h.connect()
	again.settle()
	again.leaves()
	h.fixed = deviceclient.NewSession(h.name).ID // restarted
	before.fixed = h.fixed
	before.refused()
	h.connect().settle()
	s.deviceCondition(h.name, v1alpha1.DeviceConnected, metav1.ConditionTrue)
	eventually(t, "that no copy is suspected", func() error {
		d, err := s.client().Devices().Get(t.Context(), h.name, metav1.GetOptions{})
		if err != nil || meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceCloneSuspected) {
			return fmt.Errorf("%+v, %w", d.Status.Conditions, err)
		}
		return nil
	})
	h.take(h.renew(h.key), h.key)
}

// A copy asks for renewals all the time, and has each next key refused. The device
// renews: its session is what the copy has not.
func TestDeviceRenewsBesideACopy(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	device := h.connect()
	device.settle()
	copied := *h
	exhaust := func() (limited int) {
		for range 20 {
			if r := copied.renew(newKey(t)); r.Error != nil && r.Error.Code == wire.RefusedRateLimited {
				limited++
			}
		}
		return limited
	}
	if exhaust() == 0 {
		t.Fatal("a copy has no bound: this test proves nothing")
	}
	h.session = device.client.ID
	next := newKey(t)
	renewed := *h
	renewed.take(h.renew(next), next)
	guess := copied
	guess.session = deviceclient.NewSession(guess.name).ID
	wantError(t, guess.renew(newKey(t)), wire.RefusedRateLimited, "")
	exhaust()
	if c, err := renewed.dial(); err != nil {
		t.Errorf("the device's next key is refused because of a copy: %v", err)
	} else {
		c.Close()
	}
	// A copy whose budget is not used up yet.
	other := s.holder("edge-2").enroll(s.token(nil))
	device = other.connect()
	device.settle()
	copied = *other
	other.session = device.client.ID
	next = newKey(t)
	renewed = *other
	renewed.take(other.renew(next), next)
	wantError(t, copied.renew(newKey(t)), wire.RefusedRateLimited, "another session")
	device.leaves()
	renewed.connect().settle()
}

// A device whose agent is too old is refused, and the Device says so, once.
func TestAgentThatIsTooOld(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	h.fixed = "fleet-agent" // what agents of before called themselves
	for range 50 {
		h.refused()
	}
	s.event(h.name, "AgentTooOld", "upgrade fleet-agent")
	s.deviceOnce(h.name, func(d *v1alpha1.Device) bool {
		ready := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceReady)
		return ready != nil && ready.Status == metav1.ConditionFalse && ready.Reason == v1alpha1.ReasonAgentTooOld
	})
	events, err := kubernetes.NewForConfigOrDie(s.rest()).CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := int32(0)
	for _, e := range events.Items {
		if e.Reason == "AgentTooOld" {
			n += max(1, e.Count)
		}
	}
	if n != 1 {
		t.Errorf("%d events", n)
	}
}

// accept is what `fleet-server device accept --session` does.
func (s *server) accept(name, session string) {
	s.t.Helper()
	patch := fmt.Appendf(nil, `{"status":{"accepted":%q}}`, session)
	if _, err := s.client().Devices().Patch(s.t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		s.t.Fatal(err)
	}
}

func TestTokensEndAndGo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	tokens := s.client().EnrollmentTokens()
	hash := wire.Sum([]byte("x")).String()
	for name, age := range map[string]time.Duration{"ended": -time.Hour, "old": -8 * 24 * time.Hour, "good": time.Hour} {
		_, err := tokens.Create(t.Context(), &v1alpha1.EnrollmentToken{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1alpha1.EnrollmentTokenSpec{SecretHash: hash, ExpiresAt: new(metav1.NewTime(time.Now().Add(age)))},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := tokens.Create(t.Context(), &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Spec: v1alpha1.EnrollmentTokenSpec{SecretHash: hash}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, usable := range map[string]metav1.ConditionStatus{"ended": metav1.ConditionFalse, "good": metav1.ConditionTrue, "plain": metav1.ConditionTrue} {
		eventually(t, "token "+name, func() error {
			o, err := tokens.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.TokenUsable); c == nil || c.Status != usable || o.Status.ExpiresAt == nil {
				return fmt.Errorf("status is %+v", o.Status)
			}
			return nil
		})
	}
	eventually(t, "the old token to go", func() error {
		if _, err := tokens.Get(t.Context(), "old", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	plain, err := tokens.Get(t.Context(), "plain", metav1.GetOptions{})
	if err != nil || plain.Status.ExpiresAt.Sub(plain.CreationTimestamp.Time) != v1alpha1.DefaultTokenTTL || plain.Spec.MaxUses != 1 {
		t.Errorf("token without a word: %+v, %v", plain, err)
	}
}

// However often a device reports the label of a group, it is not in the group,
// and the attempts are one event.
func TestDeviceCannotLabelItselfIntoAGroup(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create(deployment("web", "a"))
	h := s.holder("edge-1").enroll(s.token(nil))
	c := h.connect()
	c.settle()
	kube, err := kubernetes.NewForConfig(s.rest())
	if err != nil {
		t.Fatal(err)
	}
	reported := 0
	for i := range 1000 {
		info := wire.DeviceInfo{Labels: map[string]string{"group": "a", "attempt": fmt.Sprint(i)}}
		if a := send[wire.Ack](c, wire.KindInfo, info); a.Error == nil {
			reported++
		} else if a.Error.Code != wire.RefusedRateLimited {
			t.Fatal(a.Error)
		}
	}
	if reported < 5 {
		t.Fatalf("%d reports were taken: this proves nothing", reported)
	}
	eventually(t, "one event", func() error {
		events, err := kube.CoreV1().Events(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=edge-1,reason=LabelsNotGranted"})
		if err != nil {
			return err
		}
		if n := len(events.Items); n != 1 {
			return fmt.Errorf("%d events: %+v", n, events.Items)
		}
		return nil
	})
	d, err := s.client().Devices().Get(t.Context(), h.name, metav1.GetOptions{})
	if err != nil || d.Labels["group"] != "" || d.Labels["device.fleet.nationtech.io/group"] != "a" {
		t.Errorf("labels are %v, %v", d.Labels, err)
	}
	s.aggregate("default", "web", counts{})
	if r := c.snapshot(); r.Manifest == nil || len(r.Manifest.Entries) != 0 {
		t.Errorf("the device is given %+v", r.Manifest)
	}
}
