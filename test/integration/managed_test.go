package integration_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/revisions"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What informers hold has no managed fields, but for the one word of a Deployment and the
// one entry of a Device that the server decides by.
func TestInformersHoldNoManagedFields(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	fleet, kube := s.client(), kubernetes.NewForConfigOrDie(s.rest())
	s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.applicantWaits("edge-2")
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}, StringData: map[string]string{"k": "v"}}
	if _, err := kube.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	core := client.KubeInformers(kube).Core().V1()
	ofRevisions, err := revisions.NewInformer(kube)
	if err != nil {
		t.Fatal(err)
	}
	for kind, informer := range map[string]cache.SharedIndexInformer{
		"Device": fleet.DeviceInformer(nil), "Deployment": fleet.DeploymentInformer(),
		"EnrollmentToken": fleet.EnrollmentTokenInformer(), "EnrollmentRequest": fleet.EnrollmentRequestInformer(),
		"ControllerRevision": ofRevisions, "Namespace": core.Namespaces().Informer(), "Secret": core.Secrets().Informer(), "ConfigMap": core.ConfigMaps().Informer(),
	} {
		go informer.RunWithContext(t.Context())
		if !cache.WaitFor(t.Context(), "", informer.HasSyncedChecker()) {
			t.Fatalf("%s: it does not list", kind)
		}
		objects := informer.GetStore().List()
		if len(objects) == 0 {
			t.Errorf("%s: there is no object to look at", kind)
		}
		for _, o := range objects {
			m, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range m.GetManagedFields() {
				switch {
				case kind == "Deployment" && f.FieldsV1 == nil:
				case kind == "Device" && f.Manager == client.DeviceManager && f.Subresource == "":
				default:
					t.Errorf("%s %s has managed fields: %v", kind, m.GetName(), f)
				}
			}
		}
	}
}

// applicantWaits has a device ask, which an operator has to approve.
func (s *server) applicantWaits(name string) {
	s.t.Helper()
	d := s.applicant(name, s.tokenToApprove())
	done := make(chan error, 1)
	go func() { done <- d.Enroll(s.t.Context()) }()
	s.t.Cleanup(func() { <-done }) // ends with the test's context
	eventually(s.t, "the request of "+name, func() error {
		_, err := s.client().EnrollmentRequests().Get(s.t.Context(), name, metav1.GetOptions{})
		return err
	})
}

// operator is the field manager of what a person writes.
const operator = "operator"

// fieldsOf are what a manager owns of an object, without its status: JSON, by operation.
func fieldsOf(o metav1.Object, manager string) map[string]string {
	fields := map[string]string{}
	for _, f := range o.GetManagedFields() {
		if f.Manager == manager && f.Subresource == "" && f.FieldsV1 != nil {
			fields[string(f.Operation)] = f.FieldsV1.GetRawString()
		}
	}
	return fields
}

// What people and tools wrote stays theirs, whatever the controllers write afterwards of
// objects that they have from informers, by updates, patches and applies.
func TestControllersClearNoManagedFields(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.client()
	creating, updating := metav1.CreateOptions{FieldManager: operator}, metav1.UpdateOptions{FieldManager: operator}
	keeps := func(what string, before, now metav1.Object, manager string) {
		t.Helper()
		was := fieldsOf(before, manager)
		if len(was) == 0 {
			t.Fatalf("%s: %s owns nothing of it from the start", what, manager)
		}
		if diff := cmp.Diff(was, fieldsOf(now, manager)); diff != "" {
			t.Errorf("%s: what %s owns (-before +now):\n%s", what, manager, diff)
		}
	}

	// A Deployment that a tool applied, and that a person labelled. The controllers update
	// its finalizers and apply its status.
	fields := map[string]any{"spec": deployment("hello", "a").Spec}
	applied, err := client.Apply(t.Context(), c.Deployments("default"), "helm", "Deployment", "hello", fields)
	if err != nil {
		t.Fatal(err)
	}
	s.aggregate("default", "hello", counts{})
	var labelled *v1alpha1.Deployment
	eventually(t, "labelling the Deployment", func() error {
		d, err := c.Deployments("default").Get(t.Context(), "hello", metav1.GetOptions{})
		if err != nil {
			return err
		}
		d.Labels = map[string]string{"team": "a"}
		labelled, err = c.Deployments("default").Update(t.Context(), d, updating)
		return err
	})

	// A Device that a person made: it gets a finalizer, labels and a status.
	made, err := c.Devices().Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "prepared", Labels: map[string]string{"site": "x"}}}, creating)
	if err != nil {
		t.Fatal(err)
	}
	// One that enrolled, with a token that the status of is written, and that a person labels.
	token := s.token(map[string]string{"group": "a"})
	s.device(sim.Config{Device: "edge-1", Token: token, Labels: map[string]string{"rack": "r1"}})
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.deviceOnce("edge-1", isReady)
	var site *v1alpha1.Device
	eventually(t, "labelling the Device", func() error {
		d, err := c.Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		d.Labels["site"] = "x"
		site, err = c.Devices().Update(t.Context(), d, updating)
		return err
	})
	// Who takes the finalizer away has it put back, by an update of the whole object.
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Finalizers = nil })
	enrolled := s.deviceOnce("edge-1", func(d *v1alpha1.Device) bool { return len(d.Finalizers) > 0 })
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.Revoked = true })

	d, err := c.Deployments("default").Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Finalizers) == 0 {
		t.Error("nothing was updated by a controller")
	}
	keeps("the Deployment", applied, d, "helm")
	keeps("the Deployment", labelled, d, operator)
	keeps("the prepared Device", made, s.deviceOnce("prepared", func(d *v1alpha1.Device) bool {
		return len(d.Finalizers) > 0 && d.Labels[v1alpha1.LabelDeviceID] != "" && len(d.Status.Conditions) > 0
	}), operator)
	revoked := s.deviceOnce("edge-1", func(d *v1alpha1.Device) bool {
		connected := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceConnected)
		return connected != nil && connected.Reason == v1alpha1.ReasonRevoked
	})
	keeps("the Device", site, revoked, operator)
	keeps("the Device", enrolled, revoked, "fleet-enrollment")
	keeps("the Device", enrolled, revoked, client.DeviceManager)

	// The token: whoever made it named no manager.
	parsed, err := wire.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token's status", func() error {
		o, err := c.EnrollmentTokens().Get(t.Context(), parsed.ID, metav1.GetOptions{})
		if err == nil && o.Status.Uses != 1 {
			err = fmt.Errorf("%d uses", o.Status.Uses)
		}
		if err == nil && len(o.ManagedFields) != 2 {
			t.Errorf("%d managers of the token, want who made it and who writes its status: %v", len(o.ManagedFields), o.ManagedFields)
		}
		return err
	})
}

// deviceOnce returns a Device once it is as it should be.
func (s *server) deviceOnce(name string, is func(*v1alpha1.Device) bool) (d *v1alpha1.Device) {
	s.t.Helper()
	eventually(s.t, "Device "+name, func() (err error) {
		if d, err = s.client().Devices().Get(s.t.Context(), name, metav1.GetOptions{}); err == nil && !is(d) {
			err = errors.New("not yet")
		}
		return err
	})
	return d
}

func isReady(d *v1alpha1.Device) bool {
	return meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceReady)
}
