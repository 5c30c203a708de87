package convert

import (
	"fmt"
	"math"
	"reflect"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kyaml "sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/score"
)

// workloads are the kinds besides Pods and Deployments that become Deployments.
var workloads = map[metav1.TypeMeta]func(*kube, []byte) error{
	{APIVersion: "apps/v1", Kind: "Deployment"}:  (*kube).deployment,
	{APIVersion: "apps/v1", Kind: "DaemonSet"}:   (*kube).daemonSet,
	{APIVersion: "apps/v1", Kind: "StatefulSet"}: (*kube).statefulSet,
	{APIVersion: "batch/v1", Kind: "Job"}:        (*kube).job,
	{APIVersion: "batch/v1", Kind: "CronJob"}:    (*kube).cronJob,
}

// daemonSet is what a Deployment of fleet is: one Pod on each device.
func (k *kube) daemonSet(data []byte) error {
	var d appsv1.DaemonSet
	if err := kyaml.UnmarshalStrict(data, &d); err != nil {
		return err
	}
	k.meta(&d.ObjectMeta, k.root)
	take(&d.Spec.Selector)
	k.templated(&d.ObjectMeta, &d.Spec, &d.Spec.Template, below(k.root, "spec"), whole)
	return nil
}

func (k *kube) statefulSet(data []byte) error {
	var d appsv1.StatefulSet
	if err := kyaml.UnmarshalStrict(data, &d); err != nil {
		return err
	}
	spec := below(k.root, "spec")
	k.meta(&d.ObjectMeta, k.root)
	k.once(take(&d.Spec.Replicas), spec)
	take(&d.Spec.Selector)
	claims := take(&d.Spec.VolumeClaimTemplates)
	for i := range claims {
		d.Spec.Template.Spec.Volumes = append(d.Spec.Template.Spec.Volumes, corev1.Volume{Name: claims[i].Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claims[i].Name},
		}})
		k.claim(&claims[i], below(spec, "volumeClaimTemplates", item(i)))
	}
	k.templated(&d.ObjectMeta, &d.Spec, &d.Spec.Template, spec, whole)
	return nil
}

// claim reports what a template of claims asks for: the device has one kind of volume.
func (k *kube) claim(c *corev1.PersistentVolumeClaim, at []string) {
	take(&c.TypeMeta)
	take(&c.Status)
	rest := c.ObjectMeta
	rest.CreationTimestamp = metav1.Time{}
	take(&rest.Name)
	k.leftovers(below(at, "metadata"), reflect.ValueOf(rest), "json", kubeAdvices)
	k.leftovers(below(at, "spec"), reflect.ValueOf(c.Spec), "json", kubeClaimAdvices)
}

// job becomes services that run once for each change of the score.
func (k *kube) job(data []byte) error {
	var d batchv1.Job
	if err := kyaml.UnmarshalStrict(data, &d); err != nil {
		return err
	}
	k.meta(&d.ObjectMeta, k.root)
	k.jobSpec(&d.ObjectMeta, &d.Spec, below(k.root, "spec"), func(p *pod) {
		for i := range p.out.Score.Services {
			if r := &p.out.Score.Services[i].Restart; *r != score.RestartOnFailure && *r != score.RestartNever {
				*r = score.RestartNever
				p.lose(below(p.at, "restartPolicy"), "a job ends, so it is Never", "give Never or OnFailure")
			}
		}
		p.lose(p.root, "a service that ends is run once for each change of the score, by each device", "give it a schedule if it is to run again")
	})
	return nil
}

func (k *kube) cronJob(data []byte) error {
	var d batchv1.CronJob
	if err := kyaml.UnmarshalStrict(data, &d); err != nil {
		return err
	}
	at := below(k.root, "spec")
	k.meta(&d.ObjectMeta, k.root)
	s := score.Schedule{Cron: take(&d.Spec.Schedule)}
	if zone := take(&d.Spec.TimeZone); zone != nil {
		s.TimeZone = *zone
	}
	if policy := d.Spec.ConcurrencyPolicy; policy == batchv1.ForbidConcurrent || policy == batchv1.ReplaceConcurrent {
		s.ConcurrencyPolicy = score.ConcurrencyPolicy(take(&d.Spec.ConcurrencyPolicy))
	}
	if suspended := take(&d.Spec.Suspend); suspended != nil && *suspended {
		k.lose(below(at, "suspend"), "a schedule of fleet cannot be suspended, so it runs", "leave the service out until it is to run")
	}
	template := below(at, "jobTemplate")
	k.meta(&d.Spec.JobTemplate.ObjectMeta, template)
	take(&d.Spec.JobTemplate.ObjectMeta)
	jobSpec := take(&d.Spec.JobTemplate.Spec)
	k.leftovers(at, reflect.ValueOf(d.Spec), "json", kubeJobAdvices)
	if !valid(&score.PodmanV0{Services: []score.Service{{Name: "x", Image: "localhost/x:1", Schedule: &s}}}) {
		k.lose(below(at, "schedule"), "it is no schedule of fleet: five fields or @daily, and a zone such as Europe/Zurich", "correct it")
		return nil
	}
	timeout := seconds(&jobSpec)
	k.jobSpec(&d.ObjectMeta, &jobSpec, below(template, "spec"), func(p *pod) { p.scheduled(&s, timeout) })
	return nil
}

// seconds takes how long a run may take, if fleet can say it.
func seconds(in *batchv1.JobSpec) *int {
	if in.ActiveDeadlineSeconds == nil {
		return nil
	}
	n := int(min(*in.ActiveDeadlineSeconds, math.MaxInt32))
	if !valid(&score.PodmanV0{Services: []score.Service{{Name: "x", Image: "localhost/x:1", Schedule: &score.Schedule{Cron: "@daily"}, TimeoutSeconds: &n}}}) {
		return nil // left and reported
	}
	take(&in.ActiveDeadlineSeconds)
	return &n
}

// scheduled gives all services a schedule, and a time within which a run ends.
func (p *pod) scheduled(s *score.Schedule, timeout *int) {
	services := p.out.Score.Services
	for i := range services {
		times := *s
		services[i].Schedule, services[i].TimeoutSeconds = &times, timeout
		if services[i].StartupProbe != nil || services[i].ReadinessProbe != nil {
			services[i].StartupProbe, services[i].ReadinessProbe = nil, nil
			p.lose(below(p.at, "containers", item(i)), "nothing waits for a job, so it has no startupProbe and no readinessProbe", "remove them")
		}
	}
	if len(services) > 1 {
		p.lose(below(p.at, "containers"), "each is a service with the schedule, and none waits for another one", "put what belongs together into one container")
	}
	if len(p.out.Score.InitContainers) > 0 {
		p.lose(below(p.at, "initContainers"), "they run when the score changes, and not before each run", "do their work in the container")
	}
}

func (k *kube) jobSpec(m *metav1.ObjectMeta, in *batchv1.JobSpec, at []string, also func(*pod)) {
	for _, n := range []struct {
		name  string
		count *int32
	}{{"parallelism", take(&in.Parallelism)}, {"completions", take(&in.Completions)}} {
		if n.count != nil && *n.count != 1 {
			k.lose(below(at, n.name), "each device runs the job once at a time, and not "+strconv.Itoa(int(*n.count))+" times", "remove it, or select as many devices")
		}
	}
	if mode := in.CompletionMode; mode != nil && *mode == batchv1.NonIndexedCompletion {
		take(&in.CompletionMode)
	}
	take(&in.Selector) // of its Pods, which there are none of
	take(&in.ManualSelector)
	k.templatedBy(kubeJobAdvices, m, in, &in.Template, at, also)
}

// whole: nothing is added to a Pod.
func whole(*pod) {}

// once reports replicas.
func (k *kube) once(replicas *int32, spec []string) {
	if replicas != nil && *replicas != 1 {
		k.lose(below(spec, "replicas"), "each device runs the Deployment once, and not "+strconv.Itoa(int(*replicas))+" times", "remove it, or select as many devices")
	}
}

// templated translates the template of an object, and reports what is left of its spec.
func (k *kube) templated(m *metav1.ObjectMeta, spec any, template *corev1.PodTemplateSpec, at []string, also func(*pod)) {
	k.templatedBy(kubeAdvices, m, spec, template, at, also)
}

func (k *kube) templatedBy(table advices, m *metav1.ObjectMeta, spec any, template *corev1.PodTemplateSpec, at []string, also func(*pod)) {
	k.meta(&template.ObjectMeta, below(at, "template"))
	take(&template.ObjectMeta)
	podSpec := take(&template.Spec)
	k.leftovers(at, reflect.ValueOf(spec).Elem(), "json", table)
	k.pod(m, &podSpec, below(at, "template", "spec"), also)
}

// ownedBy is whether an object is made by another one that is translated.
func ownedBy(m *metav1.PartialObjectMetadata) string {
	if owner := metav1.GetControllerOfNoCopy(m); owner != nil {
		return fmt.Sprintf("%s %s", owner.Kind, owner.Name)
	}
	return ""
}
