package integration_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// revisions are those of a Deployment in namespace default, the oldest first.
func (s *server) revisions(deployment string) []appsv1.ControllerRevision {
	s.t.Helper()
	kube := kubernetes.NewForConfigOrDie(s.rest())
	list, err := kube.AppsV1().ControllerRevisions("default").List(s.t.Context(), metav1.ListOptions{LabelSelector: v1alpha1.LabelDeployment + "=" + deployment})
	if err != nil {
		s.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b appsv1.ControllerRevision) int { return cmp.Compare(a.Revision, b.Revision) })
	return list.Items
}

// history waits until the revisions of a Deployment have these numbers and causes.
func (s *server) history(deployment string, want ...string) []appsv1.ControllerRevision {
	s.t.Helper()
	var all []appsv1.ControllerRevision
	eventually(s.t, "revisions of "+deployment, func() error {
		all = s.revisions(deployment)
		var got []string
		for _, r := range all {
			got = append(got, fmt.Sprint(r.Revision, " ", r.Annotations[v1alpha1.AnnotationChangeCause]))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %q, want %q", got, want)
		}
		return nil
	})
	return all
}

// change gives a Deployment another argument, and says why.
func (s *server) change(name, arg, why string) {
	s.t.Helper()
	s.edit("default", name, func(d *v1alpha1.Deployment) {
		d.Spec.Score = deployment(name, "a", arg).Spec.Score
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.AnnotationChangeCause, why)
	})
}

func TestEveryScoreThatWasAcceptedIsARevision(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create(deployment("hello", "a", "one"))
	first := s.history("hello", "1 ")[0]
	if owner := metav1.GetControllerOf(&first); owner == nil || owner.Kind != "Deployment" || owner.Name != "hello" || owner.APIVersion != v1alpha1.GroupVersion.String() {
		t.Errorf("the owner is %+v", owner)
	}
	if want := `{"spec":{"score":{"data":{"services":[{"args":["one"],"image":"localhost/hello:1","name":"web"}]},"type":"PodmanV0"}}}`; string(first.Data.Raw) != want {
		t.Errorf("data are %s, want %s", first.Data.Raw, want)
	}
	if at, err := time.Parse(time.RFC3339, first.Annotations[v1alpha1.AnnotationChangedAt]); err != nil || at.IsZero() || first.Annotations[v1alpha1.AnnotationChangedBy] == "" {
		t.Errorf("annotations are %v (%v)", first.Annotations, err)
	}
	// A cause that is told afterwards, as kubectl annotate does.
	s.edit("default", "hello", func(d *v1alpha1.Deployment) {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, v1alpha1.AnnotationChangeCause, "opening")
	})
	s.history("hello", "1 opening")
	s.change("hello", "two", "second try")
	s.history("hello", "1 opening", "2 second try")
	// What is no change of the score makes none.
	s.edit("default", "hello", func(d *v1alpha1.Deployment) {
		d.Spec.TargetSelector.MatchLabels = map[string]string{"group": "b"}
	})
	// What is refused makes none.
	refused := s.tryEdit("default", "hello", func(d *v1alpha1.Deployment) {
		d.Spec.Score.Data = runtime.RawExtension{Raw: []byte(`{"services":[{"name":"web"}]}`)}
	})
	if !apierrors.IsInvalid(refused) {
		t.Errorf("a service without an image: %v", refused)
	}
	s.history("hello", "1 opening", "2 second try")
	// A score that is back is the newest.
	s.change("hello", "one", "back")
	s.history("hello", "2 second try", "3 back")
	// The present one is made again when somebody deletes it.
	kube := kubernetes.NewForConfigOrDie(s.rest())
	if err := kube.AppsV1().ControllerRevisions("default").Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.history("hello", "2 second try", "3 back")
	// They go with their Deployment, and do not stand in the way of the next of its name.
	if err := s.client().Deployments("default").Delete(t.Context(), "hello", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the object goes", func() error {
		if _, err := s.client().Deployments("default").Get(t.Context(), "hello", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errStillThere
		}
		return nil
	})
	s.create(deployment("hello", "a", "one"))
	s.history("hello", "1 ")
}

// A restart makes no revision, and knows those that are there.
func TestRevisionsOutliveTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create(deployment("hello", "a", "one"))
	s.history("hello", "1 ")
	s.change("hello", "two", "two")
	before := s.history("hello", "1 ", "2 two")
	s.stop()
	s.start()
	s.change("hello", "three", "three")
	after := s.history("hello", "1 ", "2 two", "3 three")
	if diff := gocmp.Diff(before, after[:2]); diff != "" {
		t.Errorf("earlier revisions (-before +after):\n%s", diff)
	}
}

// The limit counts what nobody has.
func TestARevisionThatADeviceHasIsKept(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	s.device(sim.Config{Device: "edge-1", Token: token})
	_, stop := s.device(sim.Config{Device: "edge-2", Token: token})
	limit := int32(1)
	d := deployment("hello", "a", "one")
	d.Spec.RevisionHistoryLimit = &limit
	s.create(d)
	s.aggregate("default", "hello", counts{2, 2, 0, 0})
	stop() // with the first
	for _, arg := range []string{"two", "three", "four"} {
		s.change("hello", arg, arg)
		s.aggregate("default", "hello", counts{2, 1, 0, 1})
	}
	s.history("hello", "1 ", "3 three", "4 four")
	s.editDevice("edge-2", func(d *v1alpha1.Device) { d.Labels["group"] = "b" })
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.change("hello", "five", "five")
	s.history("hello", "4 four", "5 five")
}

// A device gets what a manifest named, although another score has replaced it.
func TestAnEarlierBodyIsServed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create(deployment("hello", "a", "one"))
	h := s.holder("edge-1").enroll(s.token(map[string]string{"group": "a"}))
	stranger := s.holder("edge-2").enroll(s.token(map[string]string{"group": "b"}))
	c, other := h.connect(), stranger.connect()
	c.settle()
	other.settle()
	var entry wire.Entry
	eventually(t, "the manifest", func() error {
		r := c.snapshot()
		if r.Manifest == nil || len(r.Manifest.Entries) != 1 {
			return errors.New("it has no entry")
		}
		entry = r.Manifest.Entries[0]
		return nil
	})
	s.change("hello", "two", "")
	s.history("hello", "1 ", "2 ")
	if _, err := c.client.Body(t.Context(), entry.Hash, entry.Size); err != nil {
		t.Error(err)
	}
	var refusal *wire.Refusal
	if _, err := other.client.Body(t.Context(), entry.Hash, entry.Size); !errors.As(err, &refusal) || refusal.Code != wire.RefusedNotFound {
		t.Errorf("another device gets %v", err)
	}
}

// Revisions that somebody made by hand keep no score from its devices, and none that
// was accepted is without a revision of its own.
func TestRevisionsMadeByHandMisleadNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kube := kubernetes.NewForConfigOrDie(s.rest())
	if _, err := kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token := s.token(map[string]string{"group": "a"})
	s.device(sim.Config{Device: "edge-1", Token: token})
	body := func(name, arg string) string {
		b, err := score.Canonical("PodmanV0", deployment(name, "a", arg).Spec.Score.Data.Raw)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, forge := range map[string]func(r *appsv1.ControllerRevision, d *v1alpha1.Deployment, hash string){
		"elsewhere": func(r *appsv1.ControllerRevision, _ *v1alpha1.Deployment, _ string) { r.Namespace = "other" },
		"last":      func(r *appsv1.ControllerRevision, _ *v1alpha1.Deployment, _ string) { r.Revision = math.MaxInt64 },
		"alike":     func(*appsv1.ControllerRevision, *v1alpha1.Deployment, string) {},
		"namesake": func(r *appsv1.ControllerRevision, d *v1alpha1.Deployment, hash string) {
			sum := sha256.Sum256([]byte(string(d.UID) + "/" + hash))
			r.Name = d.Name + "-" + hex.EncodeToString(sum[:5])
			r.OwnerReferences = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.create(deployment(name, "a", "one"))
			s.aggregate("default", name, counts{1, 1, 0, 0})
			s.history(name, "1 ")
			d, err := s.client().Deployments("default").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			hash := score.Hash([]byte(body(name, "two")))
			forged := &appsv1.ControllerRevision{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "default", Name: name + "-forged", Finalizers: []string{"example.com/kept"},
					Labels:          map[string]string{v1alpha1.LabelDeployment: name},
					Annotations:     map[string]string{v1alpha1.AnnotationScoreHash: hash},
					OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, v1alpha1.GroupVersion.WithKind("Deployment"))},
				},
				Data: runtime.RawExtension{Raw: []byte(`{"spec":{"score":` + body(name, "forged") + `}}`)}, Revision: 5,
			}
			forge(forged, d, hash)
			if _, err := kube.AppsV1().ControllerRevisions(forged.Namespace).Create(t.Context(), forged, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			s.change(name, "two", "")
			eventually(t, "the revision", func() error {
				for _, r := range s.revisions(name) {
					if string(r.Data.Raw) == `{"spec":{"score":`+body(name, "two")+`}}` && r.Revision > 1 {
						return nil
					}
				}
				return errors.New("there is none of the score")
			})
			s.aggregate("default", name, counts{1, 1, 0, 0})
		})
	}
}

// orphan deletes a Deployment and leaves its revisions, which have no owner then.
func (s *server) orphan(name string) []appsv1.ControllerRevision {
	s.t.Helper()
	err := s.client().Deployments("default").Delete(s.t.Context(), name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)})
	if err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the object goes", func() error {
		if _, err := s.client().Deployments("default").Get(s.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errStillThere
		}
		return nil
	})
	left := s.revisions(name)
	for _, r := range left {
		if owner := metav1.GetControllerOf(&r); owner != nil && owner.Kind == "Deployment" {
			s.t.Fatalf("revision %d has the owner %v", r.Revision, owner)
		}
	}
	return left
}

// What a Deployment left behind is the history of the next one of its name: it counts for its
// limit, also after a restart. What is somebody else's is not touched.
func TestRevisionsWithoutAnOwnerAreAdopted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kube := kubernetes.NewForConfigOrDie(s.rest())
	s.create(deployment("hello", "a", "one"))
	s.history("hello", "1 ")
	s.change("hello", "two", "two")
	s.history("hello", "1 ", "2 two")
	left := s.orphan("hello")
	if len(left) != 2 {
		t.Fatalf("%d revisions are left", len(left))
	}
	holder, err := kube.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "holder"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	foreign := map[string]func(*appsv1.ControllerRevision){
		"other-owner": func(r *appsv1.ControllerRevision) {
			r.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(holder, corev1.SchemeGroupVersion.WithKind("ConfigMap"))}
		},
		"other-label": func(r *appsv1.ControllerRevision) { r.Labels[v1alpha1.LabelDeployment] = "hello-too" },
		"other-hash":  func(r *appsv1.ControllerRevision) { r.Data.Raw = left[1].Data.Raw },
		"no-score":    func(r *appsv1.ControllerRevision) { r.Data.Raw = []byte(`{"spec":{"template":{}}}`) },
		"no-hash":     func(r *appsv1.ControllerRevision) { r.Annotations = nil },
	}
	before := map[string]string{}
	for name, change := range foreign {
		r := left[0].DeepCopy()
		r.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{v1alpha1.LabelDeployment: "hello"}, Annotations: r.Annotations}
		change(r)
		made, err := kube.AppsV1().ControllerRevisions("default").Create(t.Context(), r, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		before[name] = made.ResourceVersion
	}
	s.stop()
	s.start()
	d := deployment("hello", "a", "two")
	d.Spec.RevisionHistoryLimit = new(int32(1))
	s.create(d)
	// The score is back, and the first is the one that is kept besides.
	adopted := func(want ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("revisions %v", want), func() error {
			live, err := s.client().Deployments("default").Get(t.Context(), "hello", metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, r := range s.revisions("hello") {
				if metav1.IsControlledBy(&r, live) {
					got = append(got, fmt.Sprint(r.Revision, " ", r.UID == left[0].UID || r.UID == left[1].UID))
				}
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("they are %q", got)
			}
			return nil
		})
	}
	adopted("1 true", "2 true")
	s.change("hello", "three", "three")
	adopted("2 true", "3 false")
	for name, version := range before {
		r, err := kube.AppsV1().ControllerRevisions("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || r.ResourceVersion != version {
			t.Errorf("%s was touched: %v, %v", name, r, err)
		}
	}
	// Another Deployment deletes nothing that it leaves, nor takes it back while it goes.
	left = s.orphan("hello")
	if len(left) < 2 {
		t.Errorf("%d revisions are left", len(left))
	}
}

// A revision whose owner somebody took away is adopted at once.
func TestARevisionIsAdoptedWhenItLosesItsOwner(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kube := kubernetes.NewForConfigOrDie(s.rest())
	s.create(deployment("hello", "a", "one"))
	s.history("hello", "1 ")
	s.change("hello", "two", "two")
	first := s.history("hello", "1 ", "2 two")[0]
	if _, err := kube.AppsV1().ControllerRevisions("default").Patch(t.Context(), first.Name, types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its owner", func() error {
		r, err := kube.AppsV1().ControllerRevisions("default").Get(t.Context(), first.Name, metav1.GetOptions{})
		if err != nil || r.UID != first.UID {
			return fmt.Errorf("the revision is another one: %w", err)
		}
		if owner := metav1.GetControllerOf(r); owner == nil || owner.Name != "hello" {
			return fmt.Errorf("the owner is %v", owner)
		}
		return nil
	})
}

// What takes the label or the owner of a revision away does not multiply it.
func TestARevisionThatLostItsOwnerIsAdopted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	kube := kubernetes.NewForConfigOrDie(s.rest())
	s.create(deployment("hello", "a", "one"))
	first := s.history("hello", "1 ")[0]
	if _, err := kube.AppsV1().ControllerRevisions("default").Patch(t.Context(), first.Name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":null,"ownerReferences":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	again := s.history("hello", "1 ")[0]
	if owner := metav1.GetControllerOf(&again); again.UID != first.UID || owner == nil || owner.Name != "hello" {
		t.Errorf("the revision is %+v", again.ObjectMeta)
	}
	s.change("hello", "two", "two")
	s.history("hello", "1 ", "2 two")
}
