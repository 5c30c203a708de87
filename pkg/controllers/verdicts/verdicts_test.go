package verdicts_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/controllers/verdicts"
)

// rig is a book with the caches that it reads.
type rig struct {
	*verdicts.Book
	t           testing.TB
	deployments cache.Indexer
	namespaces  cache.Store
	secrets     cache.Store
	configMaps  cache.Store
}

func newRig(t testing.TB) *rig {
	r := &rig{
		t: t, deployments: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}),
		namespaces: cache.NewStore(cache.MetaNamespaceKeyFunc), secrets: cache.NewStore(cache.MetaNamespaceKeyFunc), configMaps: cache.NewStore(cache.MetaNamespaceKeyFunc),
	}
	r.Book = r.book(&secrets.Resolver{Store: r.secrets, ConfigMaps: r.configMaps, Key: []byte("key")})
	return r
}

func (r *rig) book(digests acceptance.Digests) *verdicts.Book {
	return verdicts.New(verdicts.Config{Deployments: r.deployments, Namespaces: r.namespaces, Secrets: r.secrets, ConfigMaps: r.configMaps, Digests: digests})
}

func put(t testing.TB, s cache.Store, o any) {
	t.Helper()
	if err := s.Update(o); err != nil {
		t.Fatal(err)
	}
}

// evaluations checks how many there were.
func (r *rig) evaluations(want float64) {
	r.t.Helper()
	if got := testutil.ToFloat64(r.Collectors()[0]); got != want {
		r.t.Errorf("%v evaluations, want %v", got, want)
	}
}

const (
	needsSecret = `{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"secretName":"tls","mountPath":"/tls"}]}]}`
	needsHost   = `{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"secretName":"tls","mountPath":"/tls"},{"hostPath":"/srv","mountPath":"/srv"}]}]}`
)

func deployment(data string) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "1", Generation: 1},
		Spec:       v1alpha1.DeploymentSpec{Score: v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: []byte(data)}}},
	}
}

func secret(version, content string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "tls", UID: "1", ResourceVersion: version}, Data: map[string][]byte{"key": []byte(content)}}
}

func TestAVerdictIsKeptUntilSomethingDecidesOtherwise(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := deployment(needsSecret)
	put(t, r.deployments, d)
	want := func(n float64, accepted bool, reason string) {
		t.Helper()
		for range 2 { // each of the two controllers asks
			if v := r.Of(d); v.Accepted != accepted || v.Reason != reason {
				t.Errorf("verdict is %v %s: %s", v.Accepted, v.Reason, v.Message)
			}
		}
		r.evaluations(n)
	}
	want(1, false, v1alpha1.ReasonSecretUnavailable)
	put(t, r.secrets, secret("1", "first"))
	want(2, true, v1alpha1.ReasonValid)
	first := r.Of(d).Entry.SecretsDigest
	put(t, r.secrets, secret("2", "second"))
	want(3, true, v1alpha1.ReasonValid)
	if r.Of(d).Entry.SecretsDigest == first {
		t.Error("the digest is that of the previous content")
	}

	d = d.DeepCopy() // a status that was written
	d.Status.ObservedGeneration = 1
	want(3, true, v1alpha1.ReasonValid)
	d.Generation, d.Spec.Score.Data.Raw = 2, []byte(needsHost)
	want(4, false, v1alpha1.ReasonPrivilegeExceeded)
	put(t, r.secrets, secret("3", "third"))
	want(5, false, v1alpha1.ReasonPrivilegeExceeded)
	put(t, r.namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"other": "label"}}})
	want(5, false, v1alpha1.ReasonPrivilegeExceeded)
	put(t, r.namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{v1alpha1.LabelPrivilege: "privileged"}}})
	want(6, true, v1alpha1.ReasonValid)
	d = deployment(needsSecret) // another object with the name
	d.UID, d.Generation = "2", 2
	want(7, true, v1alpha1.ReasonValid)
}

func TestSecretsLeadToTheDeploymentsThatNeedThem(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := deployment(needsSecret)
	put(t, r.deployments, d)
	needing := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, r.Needing("shop/tls")); diff != "" {
			t.Errorf("Deployments that need the Secret (-want +got):\n%s", diff)
		}
	}
	needing()
	r.Of(d)
	needing("shop/web")
	d.Generation, d.Spec.Score.Data.Raw = 2, []byte(`{"services":[{"name":"web","image":"localhost/web:1"}]}`)
	r.Of(d)
	needing()
	d.Generation, d.Spec.Score.Data.Raw = 3, []byte(needsSecret)
	r.Of(d)
	r.Forget("shop/web")
	needing()
	r.Forget("shop/web") // nothing is left to forget

	// It is gone before it is evaluated: nobody would forget it.
	if err := r.deployments.Delete(d); err != nil {
		t.Fatal(err)
	}
	r.Of(d)
	needing()
}

func TestDeploymentsOfANamespace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	put(t, r.deployments, deployment(needsSecret))
	if diff := cmp.Diff([]string{"shop/web"}, r.In("shop")); diff != "" || len(r.In("yard")) > 0 {
		t.Errorf("Deployments (-want +got):\n%s, and in another namespace: %v", diff, r.In("yard"))
	}
}

// slowDigests changes the Secret while its content is read.
type slowDigests struct {
	acceptance.Digests
	meanwhile func()
}

func (s *slowDigests) Digest(namespace string, names []string) (string, error) {
	digest, err := s.Digests.Digest(namespace, names)
	s.meanwhile()
	return digest, err
}

func TestASecretThatChangesDuringAnEvaluationIsReadAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	resolver := &secrets.Resolver{Store: r.secrets, Key: []byte("key")}
	put(t, r.secrets, secret("1", "first"))
	r.Book = r.book(&slowDigests{resolver, func() { put(t, r.secrets, secret("2", "second")) }})
	d := deployment(needsSecret)
	put(t, r.deployments, d)
	r.Of(d)
	want, err := resolver.Digest("shop", []string{"tls"})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Of(d).Entry.SecretsDigest; got != want {
		t.Error("the digest is that of the previous content")
	}
}

func TestWhatDiffers(t *testing.T) {
	t.Parallel()
	now := metav1.Now()
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Deployment)
		want   bool
	}{
		"nothing":         {func(*v1alpha1.Deployment) {}, false},
		"status":          {func(d *v1alpha1.Deployment) { d.Status.ObservedGeneration++; d.ResourceVersion = "2" }, false},
		"labels":          {func(d *v1alpha1.Deployment) { d.Labels = map[string]string{"a": "b"} }, false},
		"spec":            {func(d *v1alpha1.Deployment) { d.Generation++ }, true},
		"deletion":        {func(d *v1alpha1.Deployment) { d.DeletionTimestamp = &now }, true},
		"another of them": {func(d *v1alpha1.Deployment) { d.UID = "2" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := deployment(needsSecret)
			tc.change(changed)
			if got := verdicts.DeploymentDiffers(deployment(needsSecret), changed); got != tc.want {
				t.Errorf("differs: %v, want %v", got, tc.want)
			}
		})
	}
	namespace := func(label string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelPrivilege: label, "other": label}}}
	}
	if verdicts.NamespaceDiffers(namespace("baseline"), namespace("baseline")) || !verdicts.NamespaceDiffers(namespace("baseline"), namespace("privileged")) {
		t.Error("a namespace differs when its privilege does")
	}
	recreated := secret("1", "first")
	recreated.UID = "2"
	if verdicts.SecretDiffers(secret("1", "first"), secret("2", "first")) || !verdicts.SecretDiffers(secret("1", "first"), secret("2", "second")) ||
		!verdicts.SecretDiffers(secret("1", "first"), recreated) {
		t.Error("a Secret differs when its content does, or when it is another object")
	}
}
