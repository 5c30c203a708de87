package integration_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
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

// A request that was denied does not keep its name from others for ever, one
// that waits does, and whoever is turned away learns what can be done.
func TestDeniedRequestFreesItsName(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.tokenToApprove()
	first, second := s.holder("edge-1"), s.holder("edge-1")
	if reply := first.ask(token); !reply.Pending {
		t.Fatalf("the first is answered %+v", reply)
	}
	reply := second.ask(token)
	wantError(t, reply, wire.RefusedNameTaken, "fleet-server device deny edge-1")
	s.decide("edge-1", v1alpha1.RequestDenied)
	wantError(t, first.ask(token), wire.RefusedToken, "denied")
	if reply := second.ask(token); !reply.Pending {
		t.Fatalf("the second is answered %+v", reply)
	}
	if reply := first.ask(token); reply.Error == nil || !strings.Contains(reply.Error.Message, "another machine waits") {
		t.Errorf("the first is answered %+v", reply)
	}
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
