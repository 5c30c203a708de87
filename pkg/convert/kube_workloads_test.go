package convert_test

import (
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/convert"
)

func translateObject(t *testing.T, object any) string {
	t.Helper()
	data, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	r, err := convert.Kube([]string{"all.yaml"}, [][]byte{data}, &convert.Source{})
	if err != nil {
		return err.Error()
	}
	return checked(t, r)
}

func podTemplate(restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: restart, Containers: []corev1.Container{{
		Name: "web", Image: "docker.io/library/nginx:1", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
	}}, Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}}
}

// TestEveryFieldOfWorkloadsCounts is as that of Pods, for what makes Pods.
func TestEveryFieldOfWorkloadsCounts(t *testing.T) {
	t.Parallel()
	claimed := podTemplate("")
	claimed.Spec.Volumes = nil
	for kind, of := range map[string]struct {
		fresh func() reflect.Value
		least int
	}{
		"DaemonSet": {func() reflect.Value {
			return reflect.ValueOf(&appsv1.DaemonSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: appsv1.DaemonSetSpec{Template: podTemplate("")}})
		}, 4},
		"StatefulSet": {func() reflect.Value {
			claims := []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
			return reflect.ValueOf(&appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: appsv1.StatefulSetSpec{Template: *claimed.DeepCopy(), VolumeClaimTemplates: claims}})
		}, 20},
		"Job": {func() reflect.Value {
			return reflect.ValueOf(&batchv1.Job{TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: batchv1.JobSpec{Template: podTemplate("Never")}})
		}, 15},
		"CronJob": {func() reflect.Value {
			return reflect.ValueOf(&batchv1.CronJob{TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"}, ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: batchv1.CronJobSpec{
				Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: podTemplate("Never")}},
			}})
		}, 20},
	} {
		base := translateObject(t, of.fresh().Interface())
		n := 0
		spec := func() reflect.Value { return of.fresh().Elem().FieldByName("Spec") }
		whole := reflect.Value{}
		changes(func() reflect.Value {
			whole = of.fresh()
			return whole.Elem().FieldByName("Spec")
		}, "json", func(path string, _ reflect.Value) {
			if strings.Contains(path, "emplate.spec.") && !strings.Contains(path, "jobTemplate.spec.") || strings.Contains(path, ".template.") || strings.Contains(path, "elector") ||
				strings.Contains(path, "emplates.status") || strings.Contains(path, "emplates.apiVersion") || strings.Contains(path, "emplates.kind") {
				return // of Pods, which have a test, or of what selects them
			}
			if setByServers[path] {
				return
			}
			n++
			if got := translateObject(t, whole.Interface()); got == base {
				t.Errorf("%s: %s changes neither the translation nor what is reported", kind, path)
			}
		})
		if n < of.least {
			t.Errorf("only %d fields of %s were changed, of %d", n, kind, spec().NumField())
		}
	}
}

// setByServers are fields of which a file says nothing, and labels and names that nobody reads.
var setByServers = map[string]bool{
	".jobTemplate.name": true, ".jobTemplate.namespace": true, ".jobTemplate.uid": true, ".jobTemplate.resourceVersion": true, ".jobTemplate.generation": true,
	".jobTemplate.creationTimestamp": true, ".jobTemplate.labels": true, ".volumeClaimTemplates.creationTimestamp": true,
}

func TestWorkloadsBecomeDeployments(t *testing.T) {
	t.Parallel()
	deadline, two, zone := int64(600), int32(2), "Europe/Zurich"
	cron := &batchv1.CronJob{TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"}, ObjectMeta: metav1.ObjectMeta{Name: "backup"}, Spec: batchv1.CronJobSpec{
		Schedule: "30 3 * * *", TimeZone: &zone, ConcurrencyPolicy: batchv1.ReplaceConcurrent,
		JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{ActiveDeadlineSeconds: &deadline, Template: podTemplate("OnFailure")}},
	}}
	set := &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &two, Template: podTemplate(""), VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "store"}}},
	}}
	set.Spec.Template.Spec.Containers[0].VolumeMounts[0].Name = "store"
	set.Spec.Template.Spec.Volumes = nil
	job := &batchv1.Job{TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: metav1.ObjectMeta{Name: "migrate"}, Spec: batchv1.JobSpec{Template: podTemplate("Never")}}
	odd := job.DeepCopy()
	odd.Spec.Template.Spec.RestartPolicy = ""
	owned := job.DeepCopy()
	yes := true
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "backup", Controller: &yes}}
	daemon := &appsv1.DaemonSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: metav1.ObjectMeta{Name: "collector"}, Spec: appsv1.DaemonSetSpec{Template: podTemplate("")}}
	for name, tc := range map[string]struct {
		object any
		has    []string
		hasNot []string
	}{
		"CronJob":              {cron, []string{`"cron":"30 3 * * *"`, `"timeZone":"Europe/Zurich"`, `"concurrencyPolicy":"Replace"`, `"timeoutSeconds":600`, `"restart":"OnFailure"`}, []string{"activeDeadlineSeconds"}},
		"StatefulSet":          {set, []string{`"name":"store"`, `"mountPath":"/data"`, "and not 2 times", "begins empty"}, nil},
		"Job":                  {job, []string{`"restart":"Never"`, "once for each change of the score"}, []string{"restartPolicy"}},
		"Job without a policy": {odd, []string{`"restart":"Never"`, "restartPolicy"}, nil},
		"Job of a CronJob":     {owned, []string{"it is made by CronJob backup"}, []string{`"image"`}},
		"DaemonSet":            {daemon, []string{`"Name":"collector"`, `"image":"docker.io/library/nginx:1"`}, nil},
	} {
		got := translateObject(t, tc.object)
		for _, part := range tc.has {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %s is missing in %s", name, part, got)
			}
		}
		for _, part := range tc.hasNot {
			if strings.Contains(got, part) {
				t.Errorf("%s: %s is in %s", name, part, got)
			}
		}
	}
}
