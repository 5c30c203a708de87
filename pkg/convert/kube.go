package convert

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kyaml "sigs.k8s.io/yaml"
)

// IsKube reports whether a file has objects of Kubernetes.
func IsKube(data []byte) bool {
	var kind struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	return d.Decode(&kind) == nil && kind.APIVersion != "" && kind.Kind != ""
}

// kube translates objects of Kubernetes.
type kube struct {
	losses
	Result
	root []string // of the object, which tells objects of several documents apart
	// objects is how many there were.
	objects int
}

const (
	// maxObjects bounds the objects of all files.
	maxObjects = 1000
	// maxExpanded bounds what a file is with its aliases replaced, in bytes of texts and in
	// nodes, maxDepth how deep it is: an alias of its own parent has no end.
	maxExpanded, maxDepth = 8 << 20, 10000
)

// Kube translates the Pods of files and what makes Pods, and keeps their ConfigMaps. It adds their
// lines to source.
func Kube(files []string, contents [][]byte, source *Source) (*Result, error) {
	k := &kube{}
	for i, data := range contents {
		decoder, room := yaml.NewDecoder(bytes.NewReader(data)), maxExpanded
		for {
			var document yaml.Node
			err := decoder.Decode(&document)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", files[i], err)
			}
			if room = expanded(&document, room, maxDepth); room <= 0 {
				return nil, fmt.Errorf("%s:%d: its aliases make more than %d MiB of it: write what they stand for, once", files[i], document.Line, maxExpanded>>20)
			}
			if err := k.document(files[i], &document, source); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", files[i], document.Line, err)
			}
		}
	}
	k.Losses = k.list
	return &k.Result, nil
}

// expanded returns what is left of room when a node with all that is in it, aliases replaced, has
// its part. It goes on no longer than there is any.
func expanded(n *yaml.Node, room, depth int) int {
	if n == nil || room <= 0 {
		return room
	}
	if depth == 0 {
		return 0
	}
	room -= 1 + len(n.Value)
	for _, inner := range append([]*yaml.Node{n.Alias}, n.Content...) {
		if room = expanded(inner, room, depth-1); room <= 0 {
			return 0
		}
	}
	return room
}

// document translates one object. Paths begin with its kind and name.
func (k *kube) document(file string, document *yaml.Node, source *Source) error {
	var list struct {
		Kind  string
		Items []yaml.Node
	}
	if document.Decode(&list) == nil && list.Kind == "List" { // as kubectl get prints several
		for i := range list.Items {
			if err := k.document(file, &yaml.Node{Kind: yaml.DocumentNode, Line: list.Items[i].Line, Content: []*yaml.Node{&list.Items[i]}}, source); err != nil {
				return err
			}
		}
		return nil
	}
	if k.objects++; k.objects > maxObjects {
		return fmt.Errorf("more than %d objects", maxObjects)
	}
	var value any
	if err := document.Decode(&value); err != nil || value == nil {
		return err
	}
	data, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	var meta metav1.PartialObjectMetadata
	if err := kyaml.Unmarshal(data, &meta); err != nil {
		return err
	}
	name := meta.Kind + "/" + meta.Name
	source.add(file, &yaml.Node{Kind: yaml.MappingNode, Line: document.Line, Content: []*yaml.Node{
		{Kind: yaml.ScalarNode, Value: name, Line: document.Content[0].Line}, document.Content[0],
	}})
	k.root = []string{name}
	workload := workloads[meta.TypeMeta]
	switch owner := ownedBy(&meta); {
	case owner != "" && (workload != nil || meta.Kind == "Pod" || meta.Kind == "ReplicaSet"):
		k.lose(k.root, "it is made by "+owner+", so it is not translated", "convert that one, or remove ownerReferences")
	case workload != nil:
		return workload(k, data)
	case meta.APIVersion == "v1" && meta.Kind == "Pod":
		var pod corev1.Pod
		if err := kyaml.UnmarshalStrict(data, &pod); err != nil {
			return err
		}
		k.meta(&pod.ObjectMeta, k.root)
		take(&pod.TypeMeta)
		take(&pod.Status)
		k.pod(&pod.ObjectMeta, &pod.Spec, below(k.root, "spec"), whole)
	case meta.APIVersion == "v1" && meta.Kind == "ConfigMap":
		return k.configMap(data)
	case meta.APIVersion == "v1" && meta.Kind == "Secret":
		k.lose(k.root, "secrets are not printed", "apply it to fleet's server as it is")
	case meta.Kind == "Service":
		k.lose(k.root, "services of one Deployment reach each other by the names of the services", "publish ports for others by hostPort")
	default:
		k.lose(k.root, "only ConfigMaps, Pods, and Deployments, DaemonSets, StatefulSets, Jobs and CronJobs of apps/v1 and batch/v1 are translated", "write what it does by hand")
	}
	return nil
}

func (k *kube) deployment(data []byte) error {
	var d appsv1.Deployment
	if err := kyaml.UnmarshalStrict(data, &d); err != nil {
		return err
	}
	spec := below(k.root, "spec")
	k.meta(&d.ObjectMeta, k.root)
	k.once(take(&d.Spec.Replicas), spec)
	take(&d.Spec.Selector) // of its Pods, which there are none of
	k.templated(&d.ObjectMeta, &d.Spec, &d.Spec.Template, spec, whole)
	return nil
}

// meta reports labels and annotations; the name and the namespace are kept.
func (k *kube) meta(m *metav1.ObjectMeta, at []string) {
	rest := *m
	rest.Name, rest.Namespace = "", ""
	take(&rest.Labels) // the Deployment keeps its own; those of a template are for its selector
	rest.UID, rest.ResourceVersion, rest.Generation, rest.ManagedFields = "", "", 0, nil
	rest.CreationTimestamp = metav1.Time{}
	k.leftovers(below(at, "metadata"), reflect.ValueOf(rest), "json", kubeAdvices)
}

func (k *kube) configMap(data []byte) error {
	var c corev1.ConfigMap
	if err := kyaml.UnmarshalStrict(data, &c); err != nil {
		return err
	}
	k.meta(&c.ObjectMeta, k.root)
	k.ConfigMaps = append(k.ConfigMaps, ConfigMap{Name: c.Name, Namespace: c.Namespace, Data: take(&c.Data)})
	size := 0
	for key, text := range k.ConfigMaps[len(k.ConfigMaps)-1].Data {
		size += len(key) + len(text)
	}
	if size > MaxConfigMap {
		k.lose(below(k.root, "data"), "devices get ConfigMaps of up to 128 KiB, and this one has "+strconv.Itoa(size)+" bytes", "split it, or put it into the image")
	}
	take(&c.TypeMeta)
	take(&c.ObjectMeta)
	k.leftovers(k.root, reflect.ValueOf(c), "json", kubeAdvices)
	return nil
}
