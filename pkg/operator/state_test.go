package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const namespace = "fleet"

func stone(n int, reason string) tombstone.Entry {
	return tombstone.Entry{
		Fingerprint: wire.Sum(fmt.Appendf(nil, "%d", n)).String(), Device: fmt.Sprintf("edge-%d", n%3), Reason: reason, Time: time.Unix(int64(n), 0).UTC(),
	}
}

func open(t *testing.T, kube *fake.Clientset) *tombstone.List {
	t.Helper()
	list, err := openJournal(t.Context(), kube.CoreV1().Secrets(namespace), 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// wants checks that the list has the stones from 0 to n, and no more.
func wants(t *testing.T, list *tombstone.List, n int) {
	t.Helper()
	for i := range n {
		if !list.Has(stone(i, "").Fingerprint) {
			t.Errorf("tombstone %d is lost", i)
		}
	}
	if list.Has(stone(n, "").Fingerprint) {
		t.Errorf("tombstone %d is there", n)
	}
}

// Entries are in as many Secrets as they need, and the next leader has them all.
func TestTombstonesAreInSecrets(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	list := open(t, kube)
	const stones = 20
	for i := range stones {
		if err := list.Add(stone(i, "revoked")); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			list = open(t, kube)
		}
	}
	wants(t, list, stones)
	wants(t, open(t, kube), stones)
	secrets, err := kube.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(secrets.Items) < 4 {
		t.Errorf("all are in %d Secrets", len(secrets.Items))
	}
	for _, s := range secrets.Items {
		if n := len(s.Data[entriesKey]); n > 1000 {
			t.Errorf("Secret %s has %d bytes", s.Name, n)
		}
	}
}

// A compaction that fails at any of its writes loses nothing, and the next one ends it.
func TestCompactionIsBrokenOff(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0).Add(20 * 365 * 24 * time.Hour)
	latest := map[string]time.Time{}
	for i := range 3 {
		latest[fmt.Sprintf("edge-%d", i)] = now
	}
	broken := errors.New("the API is out of reach")
	for fails := 1; ; fails++ {
		kube := fake.NewClientset()
		list := open(t, kube)
		const stones = 12
		for i := range stones {
			if err := list.Add(stone(i, tombstone.ReasonRenewed)); err != nil {
				t.Fatal(err)
			}
		}
		writes, armed := 0, true
		kube.PrependReactor("*", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetVerb() == "get" || !armed {
				return false, nil, nil
			}
			writes++
			return writes >= fails, nil, broken
		})
		_, err := list.Compact(now, latest)
		armed = false
		refuses := func(what string, list *tombstone.List) {
			t.Helper()
			for i := range stones {
				s := stone(i, "")
				if !list.Has(s.Fingerprint) && !list.Superseded(s.Device, s.Time) {
					t.Errorf("write %d fails: %s lets key %d in", fails, what, i)
				}
			}
		}
		refuses("the list", list)
		refuses("the next leader", open(t, kube))
		if addErr := list.Add(stone(99, "revoked")); addErr != nil {
			t.Errorf("write %d fails: nothing can be added: %v", fails, addErr)
		}
		next := open(t, kube)
		if !next.Has(stone(99, "").Fingerprint) {
			t.Errorf("write %d fails: what was added is lost", fails)
		}
		if _, err := next.Compact(now, latest); err != nil {
			t.Errorf("write %d fails: the next compaction, too: %v", fails, err)
		}
		refuses("what is compacted", next)
		if err == nil {
			if fails < 4 {
				t.Errorf("a compaction has %d writes", fails-1)
			}
			return
		}
	}
}

// Two leaders cannot both add: the one that was followed is told.
func TestAnEarlierLeaderAddsNothing(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	first := open(t, kube)
	if err := first.Add(stone(0, "revoked")); err != nil {
		t.Fatal(err)
	}
	// A cluster refuses what is not the newest, and the fake does not.
	kube.PrependReactor("update", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		s := a.(clienttesting.UpdateAction).GetObject().(*corev1.Secret)
		held, err := kube.Tracker().Get(corev1.SchemeGroupVersion.WithResource("secrets"), namespace, s.Name)
		if err == nil && string(held.(*corev1.Secret).Data[entriesKey]) != string(s.Data[entriesKey][:len(held.(*corev1.Secret).Data[entriesKey])]) {
			return true, nil, errors.New("conflict")
		}
		return false, nil, nil
	})
	second := open(t, kube)
	if err := second.Add(stone(1, "revoked")); err != nil {
		t.Fatal(err)
	}
	if err := first.Add(stone(2, "revoked")); err == nil {
		t.Error("an earlier leader adds a tombstone over that of the next one")
	}
	wants(t, open(t, kube), 2)
}

// Damage is said, and not taken for an empty list.
func TestDamagedListsAreRefused(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]*corev1.Secret{
		"generation": {ObjectMeta: metav1.ObjectMeta{Name: revokedName, Namespace: namespace}, Data: map[string][]byte{generationKey: []byte("x")}},
		"entries":    {ObjectMeta: metav1.ObjectMeta{Name: chunkName(1, 0), Namespace: namespace}, Data: map[string][]byte{entriesKey: []byte("{}\n")}},
	} {
		kube := fake.NewClientset(s)
		if _, err := openJournal(t.Context(), kube.CoreV1().Secrets(namespace), maxChunk); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The next process has the authorities of the first, and a Secret that is empty makes none.
func TestAuthoritiesAreKept(t *testing.T) {
	t.Parallel()
	kube := fake.NewClientset()
	load := func() (*pki.PKI, *authorities) {
		t.Helper()
		a := &authorities{secrets: kube.CoreV1().Secrets(namespace), dir: t.TempDir()}
		if err := a.fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		p, err := pki.Load(a.dir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p, a
	}
	first, _ := load()
	second, kept := load()
	if first.RootHash() != second.RootHash() {
		t.Error("the second process has another root")
	}
	if err := os.WriteFile(filepath.Join(kept.dir, "gateway.key"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := kept.keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := kube.CoreV1().Secrets(namespace).Get(t.Context(), authoritiesName, metav1.GetOptions{})
	if err != nil || string(s.Data["gateway.key"]) != "key" {
		t.Errorf("a new file is not kept: %v", err)
	}
	for name, data := range map[string]map[string][]byte{"empty": {}, "outside": {"../root.crt": nil}} {
		s.Data = data
		if _, err := kube.CoreV1().Secrets(namespace).Update(context.Background(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		a := &authorities{secrets: kube.CoreV1().Secrets(namespace), dir: t.TempDir()}
		if err := a.fetch(t.Context()); err == nil {
			t.Errorf("%s: a Secret is taken", name)
		}
	}
}

func TestWhatADefinitionLacks(t *testing.T) {
	t.Parallel()
	schema := func(fields ...string) map[string]any {
		properties := map[string]any{}
		for _, f := range fields {
			properties[f] = map[string]any{"type": "string"}
		}
		return map[string]any{"properties": map[string]any{"spec": map[string]any{"properties": map[string]any{"list": map[string]any{"items": map[string]any{"properties": properties}}}}}}
	}
	for name, tc := range map[string]struct {
		want, has map[string]any
		lacks     string
	}{
		"the same": {schema("a", "b"), schema("a", "b"), ""},
		"a later":  {schema("a"), schema("a", "b"), ""},
		"earlier":  {schema("a", "b"), schema("a"), ".spec.list.b"},
		"none":     {schema("a"), nil, ".spec"},
	} {
		if got := lacks(tc.want, tc.has, ""); got != tc.lacks {
			t.Errorf("%s: it lacks %q, want %q", name, got, tc.lacks)
		}
	}
}
