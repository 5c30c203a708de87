package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	waitTimeout  = 20 * time.Second
	pollInterval = 10 * time.Millisecond
)

// eventually waits until check returns nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	wait.For(t, what, waitTimeout, pollInterval, check)
}

// token creates an enrollment token that lets any number of devices in.
func (s *server) token(labels map[string]string, allowed ...string) string {
	s.t.Helper()
	return s.tokenUntil(time.Now().Add(time.Hour), labels, allowed...)
}

func (s *server) tokenUntil(expires time.Time, labels map[string]string, allowed ...string) string {
	s.t.Helper()
	return s.tokenOf(v1alpha1.EnrollmentTokenSpec{
		ExpiresAt: new(metav1.NewTime(expires)), MaxUses: 1000, PreApproved: true, Labels: labels, AllowedLabelKeys: allowed,
	})
}

// tokenOf creates an enrollment token.
func (s *server) tokenOf(spec v1alpha1.EnrollmentTokenSpec) string {
	s.t.Helper()
	root := s.root
	if root == nil {
		var err error
		if root, err = pki.DecodeCert(s.rest().CAData); err != nil { // the newest is the first
			s.t.Fatal(err)
		}
	}
	t := wire.NewToken(sha256.Sum256(root.RawSubjectPublicKeyInfo))
	spec.SecretHash = t.SecretHash()
	_, err := s.client().EnrollmentTokens().Create(s.t.Context(), &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Name: t.ID}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return t.Encode()
}

// device enrolls a simulated device and runs it until the end of the test, or
// until the returned function is called.
func (s *server) device(c sim.Config) (*sim.Device, func()) {
	s.t.Helper()
	c.Server, c.Logger = s.enrollURL(), slog.New(slog.NewTextHandler(s.t.Output(), nil))
	d, err := sim.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := d.Enroll(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return d, s.run(d)
}

// run runs an enrolled device.
func (s *server) run(d *sim.Device) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// deployment is a valid Deployment for the devices with the label group=<group>.
func deployment(name, group string, args ...string) *v1alpha1.Deployment {
	data, err := json.Marshal(map[string]any{"services": []any{map[string]any{"name": "web", "image": "localhost/hello:1", "args": args}}})
	if err != nil {
		panic(err) // strings always encode
	}
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": group}},
			Score:          v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: data}},
		},
	}
}

func (s *server) create(d *v1alpha1.Deployment) {
	s.t.Helper()
	if _, err := s.client().Deployments(d.Namespace).Create(s.t.Context(), d, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// edit changes a Deployment.
func (s *server) edit(namespace, name string, change func(*v1alpha1.Deployment)) {
	s.t.Helper()
	eventually(s.t, "editing "+name, func() error {
		d, err := s.client().Deployments(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(d)
		_, err = s.client().Deployments(namespace).Update(s.t.Context(), d, metav1.UpdateOptions{})
		return err
	})
}

// tryEdit is as edit, and returns why the change is not taken.
func (s *server) tryEdit(namespace, name string, change func(*v1alpha1.Deployment)) error {
	s.t.Helper()
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		d, err := s.client().Deployments(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(d)
		_, err = s.client().Deployments(namespace).Update(s.t.Context(), d, metav1.UpdateOptions{})
		return err
	})
}

// allow labels a namespace with the privilege that it allows.
func (s *server) allow(namespace, privilege string) {
	s.t.Helper()
	patch := []byte(`{"metadata":{"labels":{"` + v1alpha1.LabelPrivilege + `":"` + privilege + `"}}}`)
	kube := kubernetes.NewForConfigOrDie(s.rest())
	if _, err := kube.CoreV1().Namespaces().Patch(s.t.Context(), namespace, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// editDevice changes a Device.
func (s *server) editDevice(name string, change func(*v1alpha1.Device)) {
	s.t.Helper()
	eventually(s.t, "editing device "+name, func() error {
		d, err := s.client().Devices().Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Labels == nil { // it has just enrolled
			d.Labels = map[string]string{}
		}
		change(d)
		_, err = s.client().Devices().Update(s.t.Context(), d, metav1.UpdateOptions{})
		return err
	})
}

// counts are matched, succeeded, failed and pending.
type counts [4]int

// aggregate waits for the exact numbers of the current generation.
func (s *server) aggregate(namespace, name string, want counts) *v1alpha1.Deployment {
	s.t.Helper()
	var d *v1alpha1.Deployment
	eventually(s.t, fmt.Sprintf("aggregate of %s/%s", namespace, name), func() (err error) {
		if d, err = s.client().Deployments(namespace).Get(s.t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		a := d.Status.Aggregate
		if a == nil || d.Status.ObservedGeneration != d.Generation {
			return errors.New("no aggregate of this generation yet")
		}
		if got := (counts{a.MatchedDeviceCount, a.Succeeded, a.Failed, a.Pending}); got != want {
			return fmt.Errorf("matched, succeeded, failed, pending are %v, want %v", got, want)
		}
		return nil
	})
	return d
}

// condition waits for a condition's status and reason.
func (s *server) condition(namespace, name, typ string, status metav1.ConditionStatus, reason string) metav1.Condition {
	s.t.Helper()
	var c metav1.Condition
	eventually(s.t, fmt.Sprintf("condition %s of %s/%s", typ, namespace, name), func() error {
		d, err := s.client().Deployments(namespace).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		found := meta.FindStatusCondition(d.Status.Conditions, typ)
		if found == nil || found.ObservedGeneration != d.Generation {
			return errors.New("not there for this generation")
		}
		c = *found
		if c.Status != status || c.Reason != reason {
			return fmt.Errorf("it is %s, %s (%s), want %s, %s", c.Status, c.Reason, c.Message, status, reason)
		}
		return nil
	})
	return c
}

// keys waits until bucket desired-state has exactly these keys.
func (s *server) keys(want ...string) {
	s.t.Helper()
	slices.Sort(want)
	eventually(s.t, "keys of bucket desired-state", func() error {
		got, err := s.ready.Buckets.DesiredState.Keys(s.t.Context())
		if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
			return err
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("they are %v, want %v", got, want)
		}
		return nil
	})
}

// runs waits until a device's manifest names exactly these Deployments.
func runs(t testing.TB, d *sim.Device, want ...string) wire.Manifest {
	t.Helper()
	slices.Sort(want)
	var m wire.Manifest
	eventually(t, "manifest of "+d.Config.Device, func() error {
		m = d.Manifest()
		var got []string
		for _, e := range m.Entries {
			got = append(got, e.String())
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("it names %v, want %v", got, want)
		}
		return nil
	})
	return m
}
