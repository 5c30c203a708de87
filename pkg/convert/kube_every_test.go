package convert_test

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// meaninglessInKube are fields of Pods that say nothing here, with the reason.
var meaninglessInKube = map[string]string{
	".containers.securityContext.allowPrivilegeEscalation": "true is the default",
	".containers.ports.name":                               "of what selects the port in Kubernetes",
	".initContainers.ports.name":                           "of what selects the port in Kubernetes",
}

func richPod() reflect.Value {
	c := corev1.Container{Name: "web", Image: "nginx:1", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}, SecurityContext: &corev1.SecurityContext{}}
	c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}}
	c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	i := corev1.Container{Name: "init", Image: "busybox:1"}
	return reflect.ValueOf(&corev1.PodSpec{
		Containers: []corev1.Container{c}, InitContainers: []corev1.Container{i},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}}},
	}).Elem()
}

func translatePod(t *testing.T, spec corev1.PodSpec) string {
	t.Helper()
	pod := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}
	data, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	r, err := convert.Kube([]string{"pod.yaml"}, [][]byte{data}, &convert.Source{})
	if err != nil {
		return err.Error()
	}
	return checked(t, r)
}

// TestEveryFieldOfPodsCounts changes every leaf of a Pod by itself: the translation or its
// losses must change, too.
func TestEveryFieldOfPodsCounts(t *testing.T) {
	t.Parallel()
	base := translatePod(t, richPod().Interface().(corev1.PodSpec))
	n := 0
	changes(richPod, "json", func(path string, changed reflect.Value) {
		n++
		if meaninglessInKube[path] != "" {
			return
		}
		if got := translatePod(t, changed.Interface().(corev1.PodSpec)); got == base {
			t.Errorf("%s changes neither the translation nor what is reported", path)
		}
	})
	if n < 400 {
		t.Errorf("only %d fields were changed", n)
	}
}
