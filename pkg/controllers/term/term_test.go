package term_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"fleet.nationtech.io/fleet/pkg/controllers/term"
)

func take(t testing.TB, c *fake.Clientset) term.Term {
	t.Helper()
	got, err := term.Take(t.Context(), c, metav1.NamespaceSystem, term.Term{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTermsRiseWithinAnEpoch(t *testing.T) {
	t.Parallel()
	c := fake.NewClientset()
	first := take(t, c)
	if first.Number != 1 || first.Epoch == "" {
		t.Errorf("the first term is %+v", first)
	}
	for n := uint64(2); n < 5; n++ {
		if next := take(t, c); next.Number != n || next.Epoch != first.Epoch {
			t.Errorf("term %d is %+v", n, next)
		}
	}
	if err := c.CoreV1().ConfigMaps(metav1.NamespaceSystem).Delete(t.Context(), term.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if fresh := take(t, c); fresh.Number != 1 || fresh.Epoch == first.Epoch {
		t.Errorf("after the ConfigMap was deleted the term is %+v, in the epoch before it was %s", fresh, first.Epoch)
	}
}

// The store is put back to what it was: terms that were taken since must not
// be taken again.
func TestRestoredStoreBeginsANewEpoch(t *testing.T) {
	t.Parallel()
	c := fake.NewClientset()
	first := take(t, c)
	backup, err := c.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), term.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	last := take(t, c)
	if next, err := term.Take(t.Context(), c, metav1.NamespaceSystem, last); err != nil || next.Epoch != first.Epoch || next.Number != 3 {
		t.Errorf("without a restore: %+v, %v", next, err)
	}
	if _, err := c.CoreV1().ConfigMaps(metav1.NamespaceSystem).Update(t.Context(), backup, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	restored, err := term.Take(t.Context(), c, metav1.NamespaceSystem, last)
	if err != nil || restored.Epoch == first.Epoch || restored.Number != 1 {
		t.Errorf("after a restore: %+v, %v", restored, err)
	}
	if next, err := term.Take(t.Context(), c, metav1.NamespaceSystem, restored); err != nil || next.Epoch != restored.Epoch || next.Number != 2 {
		t.Errorf("the start after that: %+v, %v", next, err)
	}
}

var configMaps = corev1.SchemeGroupVersion.WithResource("configmaps")

// contender is a client of an API server that several share. meanwhile, if it
// is set, runs once between what the client has read and what it writes.
func contender(tracker clienttesting.ObjectTracker, meanwhile func()) *fake.Clientset {
	c := &fake.Clientset{}
	c.AddReactor("get", "configmaps", clienttesting.ObjectReaction(tracker))
	write := func(action clienttesting.Action) (bool, runtime.Object, error) {
		if f := meanwhile; f != nil {
			meanwhile = nil
			f()
		}
		if action.GetVerb() == "update" {
			return update(tracker, action.(clienttesting.UpdateAction).GetObject().(*corev1.ConfigMap))
		}
		return clienttesting.ObjectReaction(tracker)(action)
	}
	c.AddReactor("create", "configmaps", write)
	c.AddReactor("update", "configmaps", write)
	return c
}

// update does what an API server does and the tracker does not: it refuses the
// update of what has changed since it was read.
func update(tracker clienttesting.ObjectTracker, cm *corev1.ConfigMap) (bool, runtime.Object, error) {
	held, err := tracker.Get(configMaps, metav1.NamespaceSystem, term.Name)
	if err != nil {
		return true, nil, err
	}
	if held.(*corev1.ConfigMap).ResourceVersion != cm.ResourceVersion {
		return true, nil, apierrors.NewConflict(configMaps.GroupResource(), term.Name, errors.New("it has changed"))
	}
	cm = cm.DeepCopy()
	cm.ResourceVersion += "x"
	return true, cm, tracker.Update(configMaps, cm, metav1.NamespaceSystem)
}

func TestConcurrentTakersGetDifferentTerms(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]int{"at the first start": 0, "later": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scheme := runtime.NewScheme()
			if err := corev1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			tracker := clienttesting.NewObjectTracker(scheme, serializer.NewCodecFactory(scheme).UniversalDecoder())
			for range before {
				take(t, contender(tracker, nil))
			}
			var fast term.Term
			slow := take(t, contender(tracker, func() { fast = take(t, contender(tracker, nil)) }))
			if fast.Number != uint64(before)+1 || slow.Number != fast.Number+1 || slow.Epoch != fast.Epoch {
				t.Errorf("the faster took %+v, the slower %+v", fast, slow)
			}
		})
	}
}

func TestDamagedConfigMap(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]map[string]string{
		"empty": nil, "no epoch": {"term": "1"}, "an empty epoch": {"epoch": "", "term": "1"}, "no term": {"epoch": "e"},
		"a term of letters": {"epoch": "e", "term": "one"}, "a negative term": {"epoch": "e", "term": "-1"}, "a term too high": {"epoch": "e", "term": "18446744073709551616"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: term.Name}, Data: data})
			_, err := term.Take(t.Context(), c, metav1.NamespaceSystem, term.Term{})
			if !errors.Is(err, term.ErrDamaged) || !strings.Contains(err.Error(), term.Name) || !strings.Contains(err.Error(), "new epoch") {
				t.Errorf("error is %v, want ErrDamaged that says what to do", err)
			}
			held, err := c.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(context.Background(), term.Name, metav1.GetOptions{})
			if err != nil || len(held.Data) != len(data) {
				t.Errorf("it holds %v (%v)", held.Data, err)
			}
		})
	}
}

func TestOtherErrorsEndTheTry(t *testing.T) {
	t.Parallel()
	c := fake.NewClientset()
	tries := 0
	down := errors.New("down")
	c.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		tries++
		return true, nil, down
	})
	if _, err := term.Take(t.Context(), c, metav1.NamespaceSystem, term.Term{}); !errors.Is(err, down) || tries != 1 {
		t.Errorf("after %d tries: %v", tries, err)
	}
}
