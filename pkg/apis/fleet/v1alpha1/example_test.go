package v1alpha1_test

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
)

// A program builds a Deployment with typed services and prints what kubectl takes.
func ExampleDeployment() {
	data, err := json.Marshal(score.PodmanV0{Services: []score.Service{{
		Name: "web", Image: "docker.io/library/nginx:1.29",
		Ports: []score.Port{{HostPort: 8080, ContainerPort: 80}},
	}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	d := v1alpha1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "default"},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"site": "plant-1"}},
			Score:          v1alpha1.Score{Type: score.TypePodmanV0, Data: runtime.RawExtension{Raw: data}},
		},
	}
	out, err := yaml.Marshal(d)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(out))
	// Output:
	// apiVersion: fleet.nationtech.io/v1alpha1
	// kind: Deployment
	// metadata:
	//   name: shop
	//   namespace: default
	// spec:
	//   score:
	//     data:
	//       services:
	//       - image: docker.io/library/nginx:1.29
	//         name: web
	//         ports:
	//         - containerPort: 80
	//           hostPort: 8080
	//     type: PodmanV0
	//   targetSelector:
	//     matchLabels:
	//       site: plant-1
	// status: {}
}

// A program waits until every matched device runs the score: the conditions are of
// the present generation, and say so.
func ExampleDeploymentStatus() {
	d := v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Generation: 2},
		Status: v1alpha1.DeploymentStatus{
			ObservedGeneration: 2,
			Conditions: []metav1.Condition{
				{Type: v1alpha1.DeploymentAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonValid},
				{Type: v1alpha1.DeploymentAvailable, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDevicesFailed, Message: "1 of 3 devices failed"},
			},
			Aggregate: &v1alpha1.Aggregate{
				MatchedDeviceCount: 3, Succeeded: 2, Failed: 1,
				LastError: &v1alpha1.DeviceError{Device: "press-7", Message: "pulling image: no such host"},
			},
		},
	}
	current := d.Status.ObservedGeneration == d.Generation
	fmt.Println("runs everywhere:", current && meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeploymentAvailable))
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeploymentAvailable); c.Reason == v1alpha1.ReasonDevicesFailed {
		fmt.Println(d.Status.Aggregate.LastError.Device, "says", d.Status.Aggregate.LastError.Message)
	}
	// Output:
	// runs everywhere: false
	// press-7 says pulling image: no such host
}

// Most conditions of a Device are good when they are True, and some are problems:
// the comment of each constant says which.
func ExampleDeviceStatus() {
	status := v1alpha1.DeviceStatus{Conditions: []metav1.Condition{
		{Type: v1alpha1.DeviceReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOperational},
		{Type: v1alpha1.DeviceDiskPressure, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonNearlyFull, Message: "4% free"},
	}}
	fmt.Println("ready:", meta.IsStatusConditionTrue(status.Conditions, v1alpha1.DeviceReady))
	for _, problem := range []string{v1alpha1.DeviceDiskPressure, v1alpha1.DeviceManifestHeld, v1alpha1.DeviceCloneSuspected, v1alpha1.DeviceAgentOutdated} {
		if c := meta.FindStatusCondition(status.Conditions, problem); c != nil && c.Status == metav1.ConditionTrue {
			fmt.Println(c.Type, c.Reason, c.Message)
		}
	}
	// Output:
	// ready: true
	// DiskPressure NearlyFull 4% free
}

// The decision of an operator about a device that waits is of the key that the
// operator saw.
func ExampleEnrollmentRequest_IsApproved() {
	r := v1alpha1.EnrollmentRequest{Spec: v1alpha1.EnrollmentRequestSpec{KeyFingerprint: "9f86"}}
	meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{Type: v1alpha1.RequestApproved, Status: metav1.ConditionTrue, Reason: "Me"})
	fmt.Println(r.IsApproved())
	r.Status.ApprovedKeyFingerprint = r.Spec.KeyFingerprint
	fmt.Println(r.IsApproved())
	// Output:
	// false
	// true
}
