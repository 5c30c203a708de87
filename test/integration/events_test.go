package integration_test

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// news are the events about an object, in the order in which they are told: those that
// `kubectl get events -w` shows.
type news struct {
	t      testing.TB
	object string
	watch.Interface
}

// follow follows the events about an object that are told from now on.
func (s *server) follow(object string) *news {
	s.t.Helper()
	w, err := kubernetes.NewForConfigOrDie(s.rest()).CoreV1().Events(metav1.NamespaceAll).Watch(s.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(w.Stop)
	return &news{s.t, object, w}
}

// next wants these to be the next ones that are told, and nothing between them.
func (n *news) next(reasons ...string) (last *corev1.Event) {
	n.t.Helper()
	for _, reason := range reasons {
		select {
		case change := <-n.ResultChan():
			e, ok := change.Object.(*corev1.Event)
			if !ok {
				n.t.Fatalf("the watch ended with %+v, and %s of %s is not told yet", change, reason, n.object)
			}
			if e.Reason != reason {
				n.t.Fatalf("of %s, %s is told (%s), want %s", n.object, e.Reason, e.Message, reason)
			}
			last = e
		case <-time.After(waitTimeout):
			n.t.Fatalf("nobody tells %s of %s", reason, n.object)
		}
	}
	return last
}

// claims reports whether podman answers, and whether a manifest is held.
func (c *connection) claims(podman, held wire.ConditionStatus) {
	c.h.s.t.Helper()
	info := wire.DeviceInfo{Inventory: wire.Inventory{Arch: "amd64"}, Conditions: []wire.Condition{
		{Type: v1alpha1.DevicePodmanReady, Status: podman, Reason: "R", Message: "podman says " + string(podman)},
		{Type: v1alpha1.DeviceManifestHeld, Status: held, Reason: "R", Message: "held: " + string(held)},
	}}
	if a := send[wire.Ack](c, wire.KindInfo, info); a.Error != nil {
		c.h.s.t.Fatal(a.Error)
	}
}

// expires is when the certificate of a holder expires, as events say it.
func (h *holder) expires() string {
	h.s.t.Helper()
	leaf, err := x509.ParseCertificate(h.cert.Certificate[0])
	if err != nil {
		h.s.t.Fatal(err)
	}
	return leaf.NotAfter.UTC().Format(time.RFC3339)
}

// asks asks to be enrolled until the answer is, or is not, a certificate.
func (h *holder) asks(token string, granted bool) {
	h.s.t.Helper()
	eventually(h.s.t, "the answer to a request", func() error {
		reply := h.ask(token)
		if reply.Error != nil || (reply.Certificate != "") != granted {
			return fmt.Errorf("it is %+v", reply)
		}
		if granted {
			h.take(reply, h.key)
		}
		return nil
	})
}

// From the first request on, everything that happens to a device is told, in its order, and
// nothing twice; also that it renews its certificate beside a copy of itself.
func TestTheLifeOfADeviceIsTold(t *testing.T) {
	t.Parallel()
	const yes, no = wire.ConditionTrue, wire.ConditionFalse
	s := newServer(t)
	told := s.follow("edge-1")
	token, h := s.tokenToApprove(), s.holder("edge-1")
	h.asks(token, false)
	told.next(v1alpha1.ReasonAwaitsOperator)
	s.decide("edge-1", v1alpha1.RequestApproved)
	told.next("Approved")
	h.asks(token, true)
	c := h.connect()
	c.settle()
	told.next("Enrolled", "Connected")

	c.claims(yes, no)
	s.deviceCondition("edge-1", v1alpha1.DevicePodmanReady, metav1.ConditionTrue)
	c.claims(no, no)
	if e := told.next("Unhealthy"); e.Message != "podman says False" || e.Type != corev1.EventTypeWarning {
		t.Errorf("it is told as %s: %s", e.Type, e.Message)
	}
	c.claims(yes, yes)
	told.next("Healthy", "ManifestHeld")
	c.claims(yes, no)
	told.next("ManifestReleased")

	renews := func() {
		t.Helper()
		h.session = c.client.ID
		next := newKey(t)
		h.take(h.renew(next), next)
		c.leaves()
		c = h.connect()
		c.settle()
		told.next("Disconnected")
		if e := told.next("Renewed"); !strings.Contains(e.Message, h.expires()) {
			t.Errorf("the certificate expires at %s, and it is told: %s", h.expires(), e.Message)
		}
		told.next("Connected")
	}
	copied := *h
	renews()
	copied.refused()
	told.next(v1alpha1.DeviceCloneSuspected)
	renews()
	copied.refused() // which says nothing new
	s.accept("edge-1", wire.SessionLabel(c.client.ID))
	s.deviceCondition("edge-1", v1alpha1.DeviceCloneSuspected, metav1.ConditionFalse)

	c.claims(no, no)
	told.next("Unhealthy")
	c.leaves()
	h.connect().settle()
	told.next("Disconnected", "Connected", "Unhealthy") // it comes back bad
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.Revoked = true })
	told.next("Revoked")
}

// report reports about a Deployment once the manifest names another body than hash, and
// returns which one that is.
func (c *connection) report(hash string, phase wire.Phase) string {
	c.h.s.t.Helper()
	state := wire.DeploymentState{Phase: phase, LastEventAt: time.Now()}
	if phase == wire.PhaseFailed {
		state.Error = "no image"
	}
	wait.For(c.h.s.t, "a manifest", waitTimeout, snapshotPace, func() error {
		r := c.snapshot()
		if r.Manifest == nil || len(r.Manifest.Entries) != 1 || r.Manifest.Entries[0].Hash == hash {
			return fmt.Errorf("the answer is %+v", r)
		}
		state.DeploymentRef, state.Hash = r.Manifest.Entries[0].DeploymentRef, r.Manifest.Entries[0].Hash
		return nil
	})
	if a := send[wire.Ack](c, wire.KindState, state); a.Error != nil {
		c.h.s.t.Fatal(a.Error)
	}
	return state.Hash
}

// What becomes of a Deployment is told: whether it is accepted, that it fails, recovers, is
// rolled out, and fails again.
func TestTheLifeOfADeploymentIsTold(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	told := s.follow("hello")
	h := s.holder("edge-1").enroll(s.token(map[string]string{"group": "a"}))
	c := h.connect()
	c.settle()
	s.create(deployment("hello", "a"))
	told.next("Accepted")
	c.report("", wire.PhaseFailed)
	if e := told.next("DevicesFailed"); !strings.Contains(e.Message, "1 device of 1, such as edge-1: no image") {
		t.Errorf("it is told: %s", e.Message)
	}
	first := c.report("", wire.PhaseRunning)
	told.next("Recovered")
	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Spec.Score = deployment("hello", "a", "again").Spec.Score })
	told.next("Accepted")
	c.report(first, wire.PhaseRunning)
	told.next("RolledOut")
	c.report("", wire.PhaseFailed)
	told.next("DevicesFailed")
	c.report("", wire.PhaseRunning)
	told.next("Recovered")
	s.edit("default", "hello", func(d *v1alpha1.Deployment) {
		d.Spec.Score.Data.Raw = []byte(`{"services":[{"name":"web","image":"localhost/hello:1","volumes":[{"secretName":"tls","mountPath":"/tls"}]}]}`)
	})
	told.next(v1alpha1.ReasonSecretUnavailable)
	s.condition("default", "hello", v1alpha1.DeploymentStalled, metav1.ConditionTrue, v1alpha1.ReasonHeld)
	if e := s.aggregate("default", "hello", counts{1, 0, 0, 1}).Status.Aggregate.LastError; e == nil || !strings.HasPrefix(e.Message, "SecretUnavailable: ") || e.Device != "" {
		t.Errorf("the last error is %+v", e)
	}
}
