package reconcile_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/controllers/reconcile"
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
