package integration_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

func TestApplyReachesTheDeviceAndComesBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a"))
	s.keys("edge-1.default.hello")
	runs(t, d, "default/hello")
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.condition("default", "hello", v1alpha1.DeploymentAccepted, metav1.ConditionTrue, v1alpha1.ReasonValid)
	s.condition("default", "hello", v1alpha1.DeploymentAvailable, metav1.ConditionTrue, v1alpha1.ReasonComplete)
}

// What is wrong with a score is refused when it is written, all of it, and so is what its
// namespace does not allow. Warnings, and what can still come, refuse nothing.
func TestInvalidScoreIsNotTaken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a"))
	before := runs(t, d, "default/hello")
	s.aggregate("default", "hello", counts{1, 1, 0, 0})

	for name, tc := range map[string]struct{ services, field, message string }{
		"a field": {`[{"name":"web","image":"localhost/hello:1","imagePolicy":"x"}]`, "spec.score.data.services[0].imagePolicy", "unknown field"},
		"a value": {`[{"name":"web","image":"hello"}]`, "spec.score.data.services[0].image", "not a fully qualified image"},
		"a right": {`[{"name":"web","image":"localhost/hello:1","volumes":[{"hostPath":"/srv","mountPath":"/srv"}]}]`, "spec.score.data.services[0].volumes[0].hostPath", "needs privilege privileged"},
	} {
		err := s.tryEdit("default", "hello", func(d *v1alpha1.Deployment) {
			d.Spec.Score.Data = runtime.RawExtension{Raw: []byte(`{"services":` + tc.services + `}`)}
		})
		status, _ := errors.AsType[*apierrors.StatusError](err)
		if !apierrors.IsInvalid(err) || len(status.ErrStatus.Details.Causes) != 1 || status.ErrStatus.Details.Causes[0].Field != tc.field ||
			!strings.Contains(status.ErrStatus.Details.Causes[0].Message, tc.message) {
			t.Errorf("%s: error is %v, want one that names %s", name, err, tc.field)
		}
	}
	if after := runs(t, d, "default/hello"); after.Entries[0].Hold || after.Entries[0].Hash != before.Entries[0].Hash {
		t.Errorf("the device is told %+v after refusals", after.Entries[0])
	}
	// A Secret may come later.
	s.edit("default", "hello", func(d *v1alpha1.Deployment) {
		d.Spec.Score.Data = runtime.RawExtension{Raw: []byte(`{"services":[{"name":"web","image":"localhost/hello:1","volumes":[{"secretName":"tls","mountPath":"/tls"}]}]}`)}
	})
	s.condition("default", "hello", v1alpha1.DeploymentAccepted, metav1.ConditionFalse, v1alpha1.ReasonSecretUnavailable)
	// What is wrong already can be changed elsewhere.
	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Labels = map[string]string{"a": "b"} })
}

// What is not allowed any more is held by devices, and its object can be changed.
func TestScoreThatIsNotAllowedAnyMoreIsNotSent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.allow("default", "privileged")
	hello := deployment("hello", "a")
	hello.Spec.Score.Data = runtime.RawExtension{Raw: []byte(`{"services":[{"name":"web","image":"localhost/hello:1","volumes":[{"hostPath":"/srv","mountPath":"/srv"}]}]}`)}
	s.create(hello)
	before := runs(t, d, "default/hello")
	s.aggregate("default", "hello", counts{1, 1, 0, 0})

	s.allow("default", "baseline")
	c := s.condition("default", "hello", v1alpha1.DeploymentAccepted, metav1.ConditionFalse, v1alpha1.ReasonPrivilegeExceeded)
	if !strings.Contains(c.Message, "baseline") {
		t.Errorf("message %q does not say what is allowed", c.Message)
	}
	s.aggregate("default", "hello", counts{1, 0, 0, 1})
	after := runs(t, d, "default/hello")
	if e := after.Entries[0]; !e.Hold || e.Hash != "" {
		t.Errorf("the device is told %+v, want to hold what it runs", e)
	}
	if before.Entries[0].Hold {
		t.Error("the valid score was held")
	}
	s.keys("edge-1.default.hello")
	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Labels = map[string]string{"a": "b"} })

	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Spec.Score = deployment("hello", "a", "again").Spec.Score })
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
}

// Nobody gives a namespace a privilege that does not exist, by whatever way.
func TestUnknownPrivilegeOfANamespaceIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	namespaces := kubernetes.NewForConfigOrDie(s.rest()).CoreV1().Namespaces()
	const words = `metadata.labels[fleet.nationtech.io/privilege]: unknown privilege "all": use restricted, baseline or privileged`
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error is %v, want that it is invalid: %s", what, err, words)
		}
	}
	_, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "plant", Labels: map[string]string{v1alpha1.LabelPrivilege: "all"}}}, metav1.CreateOptions{})
	refused("a new namespace", err)
	patch := []byte(`{"metadata":{"labels":{"` + v1alpha1.LabelPrivilege + `":"all"}}}`)
	_, err = namespaces.Patch(t.Context(), "default", types.MergePatchType, patch, metav1.PatchOptions{})
	refused("a patch", err)
	_, err = namespaces.Patch(t.Context(), "default", types.ApplyPatchType, append([]byte(`{"apiVersion":"v1","kind":"Namespace",`), patch[1:]...), metav1.PatchOptions{FieldManager: "test", Force: new(true)})
	refused("an apply", err)
}

func TestScoreTypeWithSpacesIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := deployment("hello", "a")
	d.Spec.Score.Type = "has spaces"
	_, err := s.client().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "PodmanV0") {
		t.Errorf("error is %v, want one that names PodmanV0", err)
	}
}

func TestLabelsAndSelectorsMoveDeployments(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	one, _ := s.device(sim.Config{Device: "edge-1", Token: token})
	two, _ := s.device(sim.Config{Device: "edge-2", Token: token})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{})

	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Labels["group"] = "a" })
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.editDevice("edge-2", func(d *v1alpha1.Device) { d.Labels["group"] = "a" })
	s.aggregate("default", "hello", counts{2, 2, 0, 0})
	s.keys("edge-1.default.hello", "edge-2.default.hello")

	s.edit("default", "hello", func(d *v1alpha1.Deployment) {
		d.Spec.TargetSelector.MatchExpressions = []metav1.LabelSelectorRequirement{
			{Key: v1alpha1.LabelDeviceID, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"edge-2"}},
		}
	})
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.keys("edge-1.default.hello")
	runs(t, two)

	s.editDevice("edge-1", func(d *v1alpha1.Device) { delete(d.Labels, "group") })
	s.aggregate("default", "hello", counts{})
	s.keys()
	runs(t, one)
}

func TestTwoDeploymentsAndTwoNamespacesOnOneDevice(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	if _, err := kubernetes.NewForConfigOrDie(s.rest()).CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.create(deployment("hello", "a"))
	s.create(deployment("second", "a"))
	same := deployment("hello", "a", "from", "other")
	same.Namespace = "other"
	s.create(same)
	runs(t, d, "default/hello", "default/second", "other/hello")
	s.keys("edge-1.default.hello", "edge-1.default.second", "edge-1.other.hello")

	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.AllowedNamespaces = &[]string{"other"} })
	runs(t, d, "other/hello")
	s.keys("edge-1.other.hello")

	// A namespace goes with everything in it.
	if err := kubernetes.NewForConfigOrDie(s.rest()).CoreV1().Namespaces().Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	runs(t, d)
	s.keys()
}

func TestUnschedulableKeepsWhatRuns(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("old", "a"))
	s.aggregate("default", "old", counts{1, 1, 0, 0})
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.Unschedulable = true })
	s.create(deployment("new", "a"))
	s.aggregate("default", "new", counts{})
	s.aggregate("default", "old", counts{1, 1, 0, 0})
	s.keys("edge-1.default.old")

	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.Unschedulable = false })
	s.aggregate("default", "new", counts{1, 1, 0, 0})
	runs(t, d, "default/new", "default/old")
}

func TestDeploymentOfAnOfflineDeviceGoesAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, stop := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	stop()
	if err := s.client().Deployments("default").Delete(t.Context(), "hello", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the object goes", func() error {
		_, err := s.client().Deployments("default").Get(t.Context(), "hello", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errStillThere
	})
	s.keys()
	s.run(d)
	runs(t, d)
}

func TestFailuresAreCountedAndNamed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	s.device(sim.Config{Device: "edge-1", Token: token})
	s.device(sim.Config{Device: "edge-2", Token: token, Fail: true})
	s.create(deployment("hello", "a"))
	d := s.aggregate("default", "hello", counts{2, 1, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || e.Device != "edge-2" || e.Message != "simulated failure" {
		t.Errorf("lastError is %+v", e)
	}
	s.condition("default", "hello", v1alpha1.DeploymentAvailable, metav1.ConditionFalse, v1alpha1.ReasonDevicesFailed)
}

func TestLargeScoreTravels(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a", strings.Repeat("x", 200<<10)))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
}
