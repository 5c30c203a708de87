package apiserver_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"fleet.nationtech.io/fleet/test/wait"
)

// site makes objects that own each other, in a namespace of a test.
type site struct {
	outside
	t         *testing.T
	namespace string
}

func newSite(t *testing.T, c outside, namespace string) site {
	t.Helper()
	s := site{c, t, namespace}
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// configMap makes one that belongs to owners.
func (s site) configMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	s.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
	made, err := s.CoreV1().ConfigMaps(s.namespace).Create(s.t.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return made
}

// by is a reference to a ConfigMap that waits for what it owns.
func by(cm *corev1.ConfigMap) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: cm.Name, UID: cm.UID, BlockOwnerDeletion: new(true)}
}

// nobody is a reference to a ConfigMap that never was.
func nobody() metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: "5f0b1f43-5c5a-4d5e-8a2f-000000000000"}
}

func (s site) delete(name string, policy metav1.DeletionPropagation) {
	s.t.Helper()
	if err := s.CoreV1().ConfigMaps(s.namespace).Delete(s.t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		s.t.Fatal(err)
	}
}

// becomes waits until there are these ConfigMaps, each as "name" or "name of
// owner,owner".
func (s site) becomes(want ...string) {
	s.t.Helper()
	wait.For(s.t, "what is left", 20*time.Second, 20*time.Millisecond, func() error {
		list, err := s.CoreV1().ConfigMaps(s.namespace).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, cm := range list.Items {
			line := cm.Name
			for i, r := range cm.OwnerReferences {
				line += []string{" of ", ","}[min(i, 1)] + r.Name
			}
			got = append(got, line)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// finalize adds or removes a finalizer of somebody else.
func (s site) finalize(name, finalizers string) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"finalizers":%s}}`, finalizers)
	if _, err := s.CoreV1().ConfigMaps(s.namespace).Patch(s.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// TestGarbageIsCollected: deletions do with dependents what Kubernetes does.
func TestGarbageIsCollected(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := newOutside(administrator)
	for name, test := range map[string]func(site){
		"background": func(s site) {
			a := s.configMap("a")
			b := s.configMap("b", by(a))
			s.configMap("c", by(b))
			s.configMap("other")
			s.delete("a", metav1.DeletePropagationBackground)
			s.becomes("other")
		},
		"foreground": func(s site) {
			a := s.configMap("a")
			b := s.configMap("b", by(a))
			s.configMap("c", by(b))
			s.finalize("c", `["example.com/held"]`)
			s.delete("a", metav1.DeletePropagationForeground)
			s.isDeleted("c") // c is deleted first, and everything waits for it
			s.becomes("a", "b of a", "c of b")
			s.finalize("c", `[]`)
			s.becomes()
		},
		"foreground without dependents": func(s site) {
			s.configMap("a")
			s.delete("a", metav1.DeletePropagationForeground)
			s.becomes()
		},
		"foreground, one that does not block": func(s site) {
			ref := by(s.configMap("a"))
			ref.BlockOwnerDeletion = nil
			s.configMap("b", ref)
			s.finalize("b", `["example.com/held"]`)
			s.delete("a", metav1.DeletePropagationForeground)
			s.becomes("b of a")
			s.finalize("b", `[]`)
			s.becomes()
		},
		"foreground in a circle": func(s site) {
			a := s.configMap("a")
			b := s.configMap("b", by(a))
			ref := by(b)
			patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"b","uid":%q,"blockOwnerDeletion":true}]}}`, ref.UID)
			if _, err := s.CoreV1().ConfigMaps(s.namespace).Patch(s.t.Context(), "a", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				s.t.Fatal(err)
			}
			s.delete("a", metav1.DeletePropagationForeground)
			s.becomes()
		},
		"orphan": func(s site) {
			a := s.configMap("a")
			s.configMap("b", by(a))
			s.configMap("c", by(a), by(s.configMap("other")))
			s.delete("a", metav1.DeletePropagationOrphan)
			s.becomes("b", "c of other", "other")
		},
		"orphan without dependents": func(s site) {
			s.configMap("a")
			s.delete("a", metav1.DeletePropagationOrphan)
			s.becomes()
		},
		"one of two owners": func(s site) {
			a, other := s.configMap("a"), s.configMap("other")
			s.configMap("b", by(a), by(other))
			s.delete("a", metav1.DeletePropagationBackground)
			s.becomes("b of other", "other")
		},
		"one of two owners, foreground": func(s site) {
			a, other := s.configMap("a"), s.configMap("other")
			s.configMap("b", by(a), by(other))
			s.delete("a", metav1.DeletePropagationForeground)
			s.becomes("b of other", "other")
		},
		"an owner that never was": func(s site) {
			s.configMap("b", nobody())
			s.becomes()
		},
		"another of the same name": func(s site) {
			ref := by(s.configMap("a"))
			ref.UID = nobody().UID
			s.configMap("b", ref)
			s.becomes("a")
		},
		"an owner in another namespace": func(s site) {
			there := newSite(s.t, s.outside, s.namespace+"-there")
			a := there.configMap("a")
			there.configMap("b", by(a))
			s.configMap("c", by(a))
			s.becomes() // as if it were not there
			there.becomes("a", "b of a")
		},
		"an owner of a kind that is not served": func(s site) {
			s.configMap("b", metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: nobody().UID})
			s.configMap("c", nobody())
			s.becomes("b of web")
		},
		"many": func(s site) {
			a := s.configMap("a")
			for i := range 50 {
				s.configMap(fmt.Sprintf("b%02d", i), by(a))
			}
			s.delete("a", metav1.DeletePropagationForeground)
			s.becomes()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newSite(t, c, strings.NewReplacer(" ", "-", ",", "").Replace(name)))
		})
	}
}

// isDeleted waits until a ConfigMap is on its way out.
func (s site) isDeleted(name string) {
	s.t.Helper()
	wait.For(s.t, name+" is deleted", 20*time.Second, 20*time.Millisecond, func() error {
		cm, err := s.CoreV1().ConfigMaps(s.namespace).Get(s.t.Context(), name, metav1.GetOptions{})
		if err == nil && cm.DeletionTimestamp.IsZero() {
			err = errors.New("it is there")
		}
		return err
	})
}

// Custom resources own and are owned like other objects, across kinds; an object
// without a namespace owns objects in namespaces and is owned by none.
func TestCustomResourcesAreCollected(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := newOutside(administrator)
	if err := c.send(t, http.MethodPost, definitions, jsonContent, definition("a", `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, "", "")); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, c, "site")
	resource := dynamic.NewForConfigOrDie(administrator).Resource(schema.GroupVersionResource{Group: "attack.example.com", Version: "v1", Resource: "as"})
	create := func(name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "attack.example.com/v1", "kind": "Ka", "metadata": map[string]any{"name": name}}}
		u.SetOwnerReferences(owners)
		var made *unstructured.Unstructured
		wait.For(t, "the kind is served", 20*time.Second, 20*time.Millisecond, func() (err error) {
			made, err = resource.Create(t.Context(), u, metav1.CreateOptions{})
			return err
		})
		return made
	}
	ref := func(u *unstructured.Unstructured) metav1.OwnerReference {
		return metav1.OwnerReference{APIVersion: "attack.example.com/v1", Kind: "Ka", Name: u.GetName(), UID: u.GetUID(), BlockOwnerDeletion: new(true)}
	}
	parent, keeper := create("parent"), create("keeper")
	create("child", ref(parent))
	kept := create("kept", by(s.configMap("owner-in-a-namespace")))
	s.configMap("b", ref(parent))
	s.configMap("c", ref(keeper))
	foreground := metav1.DeletePropagationForeground
	if err := resource.Delete(t.Context(), "parent", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	s.becomes("c of keeper", "owner-in-a-namespace")
	s.delete("owner-in-a-namespace", foreground)
	s.becomes("c of keeper")
	for _, name := range []string{"parent", "child"} {
		wait.For(t, name+" goes", 20*time.Second, 20*time.Millisecond, func() error {
			if _, err := resource.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there: %v", err)
			}
			return nil
		})
	}
	if _, err := resource.Get(t.Context(), kept.GetName(), metav1.GetOptions{}); err != nil {
		t.Errorf("an object without a namespace is gone with an owner in one: %v", err)
	}
	// With its definition go all objects of the kind, and what they own.
	if err := c.send(t, http.MethodDelete, definitions+"/as.attack.example.com?propagationPolicy=Foreground", jsonContent, ""); err != nil {
		t.Fatal(err)
	}
	s.becomes()
}
