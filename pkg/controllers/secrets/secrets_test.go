package secrets_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func resolver(t testing.TB, key string, contents map[string]map[string]string) *secrets.Resolver {
	t.Helper()
	r := &secrets.Resolver{Store: cache.NewStore(cache.MetaNamespaceKeyFunc), ConfigMaps: cache.NewStore(cache.MetaNamespaceKeyFunc), Key: []byte(key)}
	for name, content := range contents {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string][]byte{}}
		for k, v := range content {
			s.Data[k] = []byte(v)
		}
		if err := r.Store.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestDigestTellsContentsApart(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b"}
	digest := func(key, namespace string, a, b map[string]string) string {
		r := resolver(t, key, map[string]map[string]string{"a": a, "b": b})
		d, err := r.Digest(namespace, names)
		if err != nil {
			t.Fatal(err)
		}
		if !wire.ValidHash(d) {
			t.Fatalf("digest is %q", d)
		}
		return d
	}
	type content = map[string]string
	same := digest("key", "shop", content{"x": "1", "y": "2"}, content{})
	if again := digest("key", "shop", content{"y": "2", "x": "1"}, content{}); again != same {
		t.Error("the digest depends on an order that Secrets do not have")
	}
	for name, other := range map[string]string{
		"another key of digests": digest("other", "shop", content{"x": "1", "y": "2"}, content{}),
		"another value":          digest("key", "shop", content{"x": "1", "y": "3"}, content{}),
		"moved to another":       digest("key", "shop", content{"x": "1"}, content{"y": "2"}),
		"a shifted border":       digest("key", "shop", content{"x": "1y2"}, content{}),
		"swapped":                digest("key", "shop", content{"x": "2", "y": "1"}, content{}),
	} {
		if other == same {
			t.Errorf("%s: the digest is the same", name)
		}
	}
}

func TestSecretsThatCannotBeDelivered(t *testing.T) {
	t.Parallel()
	r := resolver(t, "key", map[string]map[string]string{
		"fits":    {"k": strings.Repeat("x", wire.MaxSecret-1)},
		"toolong": {"k": strings.Repeat("x", wire.MaxSecret)},
	})
	for name, want := range map[string]error{"fits": nil, "toolong": secrets.ErrTooLong, "missing": secrets.ErrMissing} {
		if _, err := r.Data("shop", name); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := r.Digest("shop", []string{name}); !errors.Is(err, want) {
			t.Errorf("digest of %s: %v", name, err)
		}
	}
	if d, err := r.Digest("shop", nil); d != "" || err != nil {
		t.Errorf("digest of nothing is %q, %v", d, err)
	}
	if _, err := r.Data("other", "fits"); !errors.Is(err, secrets.ErrMissing) {
		t.Errorf("a Secret of another namespace: %v", err)
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	first, err := secrets.Key(t.Context(), kube, metav1.NamespaceSystem)
	if err != nil || len(first) < 32 {
		t.Fatalf("key of %d bytes, %v", len(first), err)
	}
	if again, err := secrets.Key(t.Context(), kube, metav1.NamespaceSystem); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the key changes: %v", err)
	}
	damaged := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: secrets.KeyName}, Data: map[string][]byte{"key": {}}}
	if _, err := secrets.Key(t.Context(), fake.NewClientset(damaged), metav1.NamespaceSystem); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestDeliveryBelongsToItsDigest(t *testing.T) {
	t.Parallel()
	r := resolver(t, "key", map[string]map[string]string{"a": {"x": "1"}, "b": {"y": "2"}})
	names := []string{"a", "b"}
	want, err := r.Digest("shop", names)
	if err != nil {
		t.Fatal(err)
	}
	data, digest, err := r.Deliver("shop", names, "b")
	if err != nil || digest != want || string(data["y"]) != "2" {
		t.Errorf("got %v of %s, want that of %s: %v", data, digest, want, err)
	}
	for name, ask := range map[string][]string{"c": names, "a": {"a", "c"}} {
		if data, _, err := r.Deliver("shop", ask, name); !errors.Is(err, secrets.ErrMissing) {
			t.Errorf("%s of %v: %v, %v", name, ask, data, err)
		}
	}
}
