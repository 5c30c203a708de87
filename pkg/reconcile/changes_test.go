package reconcile_test

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

func TestChangesThatCount(t *testing.T) {
	t.Parallel()
	secret := func(name, label string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"a": label}}}
	}
	var got []string
	h := reconcile.Changes(func(old, now *corev1.Secret) bool { return old.Labels["a"] != now.Labels["a"] }, func(key string) { got = append(got, key) })
	h.OnAdd(secret("new", "1"), false)
	h.OnUpdate(secret("same", "1"), secret("same", "1"))
	h.OnUpdate(secret("other", "1"), secret("other", "2"))
	h.OnDelete(secret("gone", "1"))
	h.OnDelete(cache.DeletedFinalStateUnknown{Key: "shop/long-gone", Obj: secret("long-gone", "1")})
	if diff := cmp.Diff([]string{"shop/new", "shop/other", "shop/gone", "shop/long-gone"}, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestManagedFieldsAreStripped(t *testing.T) {
	t.Parallel()
	fields := []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	o, err := reconcile.WithoutManagedFields(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a", ManagedFields: fields}, Data: map[string][]byte{"k": []byte("v")}})
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string][]byte{"k": []byte("v")}}
	if diff := cmp.Diff(want, o); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	last := cache.DeletedFinalStateUnknown{Key: "a"}
	if o, err := reconcile.WithoutManagedFields(last); err != nil || o != last {
		t.Errorf("what is no object becomes %v, %v", o, err)
	}
}

// Whether an update counts may be a mistake to ask. The update is not lost for it.
func TestAMistakeAboutAChangeLosesNoKey(t *testing.T) {
	t.Parallel()
	var got []string
	changes := reconcile.Changes(func(_, now *corev1.Secret) bool { return now.Annotations["a"] == now.Labels["b"][:1] }, func(key string) { got = append(got, key) })
	h := reconcile.Guarded(guard.NewPanics().Loop("test", slog.New(slog.DiscardHandler)), changes)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}}
	h.OnUpdate(secret, secret)
	if diff := cmp.Diff([]string{"shop/a"}, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// A handler's mistake costs one change.
func TestGuardedHandlers(t *testing.T) {
	t.Parallel()
	var got []string
	panics := guard.NewPanics()
	h := reconcile.Guarded(panics.Loop("test", slog.New(slog.DiscardHandler)), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { got = append(got, "new "+o.(string)) },
		UpdateFunc: func(_, o any) { got = append(got, "changed "+o.(string)) },
		DeleteFunc: func(o any) { got = append(got, "gone "+o.(string)) },
	})
	h.OnAdd(1, true)
	h.OnAdd("a", false)
	h.OnUpdate(1, 2)
	h.OnUpdate("a", "a")
	h.OnDelete(1)
	h.OnDelete("a")
	if diff := cmp.Diff([]string{"new a", "changed a", "gone a"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if n := testutil.ToFloat64(panics.Collectors()[0]); n != 3 {
		t.Errorf("%v panics are counted, want 3", n)
	}
}
