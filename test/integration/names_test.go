package integration_test

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A Device that an operator prepared has labels and rights, which a token for
// something else must not give away.
func TestPreparedDeviceWaitsForApproval(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, err := s.client().Devices().Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "vault-1", Labels: map[string]string{"vault": "yes"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := s.token(nil)
	h := s.holder("vault-1")
	if reply := h.ask(token); !reply.Pending {
		t.Fatalf("a token that lets anybody in is answered %+v for a Device that was prepared", reply)
	}
	s.decide("vault-1", v1alpha1.RequestApproved)
	eventually(t, "the certificate", func() error {
		reply := h.ask(token)
		if reply.Error != nil || reply.Pending {
			return fmt.Errorf("%+v", reply)
		}
		h.take(reply, h.key)
		return nil
	})
	d, err := s.client().Devices().Get(t.Context(), "vault-1", metav1.GetOptions{})
	if err != nil || d.Labels["vault"] != "yes" {
		t.Errorf("labels are %v (%v)", d.Labels, err)
	}
}

// What was decided before an operator prepared the Device does not count: it is
// decided at the write.
func TestDeviceThatIsPreparedMeanwhileWaitsForApproval(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	prepare := func(name string) error {
		_, err := s.client().Devices().Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"vault": "yes"}}}, metav1.CreateOptions{})
		return err
	}
	key, token := newKey(t), s.limited(1000, true)
	h := s.listener(&cutter{n: 1000, before: func(r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/devices") {
			if err := prepare("vault-1"); err != nil {
				t.Error(err)
			}
		}
	}})
	post(t, h, wire.EnrollRequest{Token: token, Device: "vault-1", CSR: pkitest.CSROf(t, key)})
	d, err := s.client().Devices().Get(t.Context(), "vault-1", metav1.GetOptions{})
	if err != nil || d.Spec.Enrollment != nil || d.Labels["vault"] != "yes" {
		t.Errorf("the prepared Device is %+v (%v)", d, err)
	}
	if reply := s.withKey("vault-1", key).ask(token); !reply.Pending {
		t.Errorf("the key is answered %+v", reply)
	}

	// The same with a crowd, in whatever order.
	var prepared, taken int
	const many = 5
	for round := range 2 * many {
		name := fmt.Sprintf("vault-%d", round+2)
		holders := several(many, func(int) *holder { return s.holder(name) })
		begun, created := make(chan struct{}, many), make(chan error, 1)
		go func() {
			for range round%many + 1 {
				<-begun
			}
			created <- prepare(name)
		}()
		in, _, _ := crowd(holders, func(int) string { begun <- struct{}{}; return token })
		if err := <-created; err != nil {
			taken++ // a device was first
			continue
		}
		prepared++
		d, err := s.client().Devices().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || d.Spec.Enrollment != nil || in > 0 {
			t.Errorf("%d of the crowd have the prepared Device %s: %+v (%v)", in, name, d.Spec.Enrollment, err)
		}
	}
	t.Logf("the operator was first %d times, the crowd %d times", prepared, taken)
}

// A name that was denied to one machine is closed to every other until an
// operator opens it, whatever token they have, and whoever is turned away learns
// what can be done.
func TestDeniedNameIsClosed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token, vouching := s.tokenToApprove(), s.token(nil)
	first, second := s.holder("edge-1"), s.holder("edge-1")
	if reply := first.ask(token); !reply.Pending {
		t.Fatalf("the first is answered %+v", reply)
	}
	wantError(t, second.ask(token), wire.RefusedNameTaken, "fleet-server device deny edge-1")
	s.decide("edge-1", v1alpha1.RequestDenied)
	for _, token := range []string{token, vouching} {
		wantError(t, first.ask(token), wire.RefusedToken, "denied")
		wantError(t, second.ask(token), wire.RefusedNameTaken, "fleet-server device reopen edge-1")
	}
	if uses := s.uses(token); uses != 1 {
		t.Errorf("the token was used %d times by who was turned away, want 1 by the first", uses)
	}
	if err := s.client().EnrollmentRequests().Delete(t.Context(), "edge-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if reply := second.ask(token); !reply.Pending {
		t.Fatalf("the second is answered %+v once the name is open", reply)
	}
	wantError(t, first.ask(token), wire.RefusedNameTaken, "another machine waits")
}

// The token of `device replace` names the device, so it opens its name; but not
// to the very machine that was denied.
func TestReplacementOpensADeniedName(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	denied := s.holder("edge-1")
	if reply := denied.ask(s.tokenToApprove()); !reply.Pending {
		t.Fatalf("it is answered %+v", reply)
	}
	s.decide("edge-1", v1alpha1.RequestDenied)
	token := s.token(nil)
	s.editToken(strings.Split(token, ".")[2], func(o *v1alpha1.EnrollmentToken) { o.Spec.Replaces = "edge-1" })
	wantError(t, denied.ask(token), wire.RefusedToken, "denied")
	s.holder("edge-1").enroll(token)
}

// A machine that is in may ask again as often as it likes; that does not remove
// the request of the one that is to take its place.
func TestOldMachineCannotKeepItsReplacementOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	old := s.holder("edge-1").enroll(token)
	replacing := s.tokenToApprove()
	s.editToken(strings.Split(replacing, ".")[2], func(o *v1alpha1.EnrollmentToken) { o.Spec.Replaces = "edge-1" })
	next := s.holder("edge-1")
	if reply := next.ask(replacing); !reply.Pending {
		t.Fatalf("it is answered %+v", reply)
	}
	before, err := s.client().EnrollmentRequests().Get(t.Context(), "edge-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old.enroll(token)
	after, err := s.client().EnrollmentRequests().Get(t.Context(), "edge-1", metav1.GetOptions{})
	if err != nil || after.UID != before.UID {
		t.Fatalf("the request of the new machine is gone: %v", err)
	}
	s.approve("edge-1")
	eventually(t, "the new machine to be let in", func() error {
		reply := next.ask(replacing)
		if reply.Certificate == "" {
			return fmt.Errorf("%+v", reply)
		}
		return nil
	})
}

// A key that made room for another in a renewal stays out, also after the
// device was revoked and an older backup was restored.
func TestKeysThatMadeRoomStayOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1").enroll(s.token(nil))
	second, third := newKey(t), newKey(t)
	unused := *h
	unused.take(h.renew(second), second)
	backup := s.backup() // it knows the first key and the second
	h.take(h.renew(third), third)
	c := h.connect()
	c.settle()
	if _, err := s.client().Devices().Patch(t.Context(), "edge-1", types.MergePatchType, []byte(`{"spec":{"revoked":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.ends()
	s.tombstones(3)
	s.restore(backup)
	unused.refused()
	h.refused()
}

// Whoever may edit a Device may also take away what keeps it, or its keys.
func TestDeviceWithoutKeysOrObjectIsOut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	for name, take := range map[string]func() error{
		"no-keys": func() error {
			_, err := s.client().Devices().Patch(t.Context(), "no-keys", types.MergePatchType, []byte(`{"spec":{"enrollment":null}}`), metav1.PatchOptions{})
			return err
		},
		"no-object": func() error {
			if _, err := s.client().Devices().Patch(t.Context(), "no-object", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
				return err
			}
			return s.client().Devices().Delete(t.Context(), "no-object", metav1.DeleteOptions{})
		},
	} {
		h := s.holder(name).enroll(token)
		c := h.connect()
		c.settle()
		if err := take(); err != nil {
			t.Fatal(err)
		}
		c.ends()
		h.refused()
	}
}

// However an approval is written, it is of the key that it names: one that names
// none or another is refused by the API, and the key of a request cannot be
// exchanged.
func TestApprovalIsOfAKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.tokenToApprove()
	h, stranger := s.holder("edge-1"), s.holder("edge-2")
	for _, h := range []*holder{h, stranger} {
		if reply := h.ask(token); !reply.Pending {
			t.Fatalf("it is answered %+v", reply)
		}
	}
	requests := s.client().EnrollmentRequests()
	get := func(name string) *v1alpha1.EnrollmentRequest {
		r, err := requests.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	key, other := get("edge-1").Spec.KeyFingerprint, get("edge-2").Spec.KeyFingerprint
	if get("edge-1").Spec.Address != "127.0.0.1" {
		t.Errorf("its address is %q", get("edge-1").Spec.Address)
	}
	patch := func(named string) error {
		condition := `{"type":"Approved","status":"True","reason":"Me","message":"","lastTransitionTime":"2026-11-21T08:00:00Z"}`
		_, err := requests.Patch(t.Context(), "edge-1", types.MergePatchType, fmt.Appendf(nil, `{"status":{%s"conditions":[%s]}}`, named, condition), metav1.PatchOptions{}, "status")
		return err
	}
	for _, named := range []string{"", `"approvedKeyFingerprint":"` + other + `",`, `"approvedKeyFingerprint":"` + key[:32] + `",`, `"approvedKeyFingerprint":null,`} {
		if err := patch(named); !apierrors.IsInvalid(err) {
			t.Errorf("an approval with %q is written: %v", named, err)
		}
	}
	if _, err := requests.Patch(t.Context(), "edge-1", types.MergePatchType, []byte(`{"spec":{"keyFingerprint":"`+other+`"}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the key is exchanged: %v", err)
	}
	if reply := h.ask(token); !reply.Pending {
		t.Errorf("it is answered %+v", reply)
	}
	if err := patch(`"approvedKeyFingerprint":"` + key + `",`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the certificate", func() error {
		if reply := h.ask(token); reply.Certificate == "" {
			return fmt.Errorf("%+v", reply)
		}
		return nil
	})
	// The approval was of one device, and is gone with it.
	if _, err := requests.Get(t.Context(), "edge-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the request is there: %v", err)
	}
}

// An approval counts once. What is approved and not fetched does not come back
// when the Device has another key, or none.
func TestApprovalCountsOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1")
	if reply := h.ask(s.tokenToApprove()); !reply.Pending {
		t.Fatalf("it is answered %+v", reply)
	}
	s.approve("edge-1")
	eventually(t, "the request to go", func() error {
		_, err := s.client().EnrollmentRequests().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if err := s.client().Devices().Delete(t.Context(), "edge-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the device to go", func() error {
		_, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	s.stop()
	s.start()
	next := s.holder("edge-1").enroll(s.token(nil))
	d, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
	if err != nil || d.Spec.Enrollment.KeyFingerprint != keyOf(t, next) {
		t.Errorf("the name is bound to %+v (%v)", d.Spec.Enrollment, err)
	}
}

func keyOf(t *testing.T, h *holder) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(h.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return wire.Sum(spki).String()
}

// An approval from before approvals named keys, or whatever else comes past the
// API's rule, lets nobody in and is taken back.
func TestApprovalByNameAloneIsTakenBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.tokenToApprove()
	h := s.holder("edge-1")
	if reply := h.ask(token); !reply.Pending {
		t.Fatalf("it is answered %+v", reply)
	}
	crds := dynamic.NewForConfigOrDie(s.rest()).Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	lax := []byte(`[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations"}]`)
	if _, err := crds.Patch(t.Context(), "enrollmentrequests.fleet.nationtech.io", types.JSONPatchType, lax, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	approval := []byte(`{"status":{"conditions":[{"type":"Approved","status":"True","reason":"Me","message":"","lastTransitionTime":"2026-11-21T08:00:00Z"}]}}`)
	eventually(t, "an approval by name alone to be written", func() error {
		_, err := s.client().EnrollmentRequests().Patch(t.Context(), "edge-1", types.MergePatchType, approval, metav1.PatchOptions{}, "status")
		return err
	})
	eventually(t, "the approval to be taken back", func() error {
		r, err := s.client().EnrollmentRequests().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.RequestApproved); c == nil || c.Reason != v1alpha1.ReasonKeyNotNamed {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	s.stop()
	s.start() // with the rule
	if reply := h.ask(token); !reply.Pending {
		t.Errorf("it is answered %+v", reply)
	}
	if _, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the device is there: %v", err)
	}
	s.approve("edge-1") // the control
	eventually(t, "the certificate", func() error {
		if reply := h.ask(token); reply.Certificate == "" {
			return fmt.Errorf("%+v", reply)
		}
		return nil
	})
}
