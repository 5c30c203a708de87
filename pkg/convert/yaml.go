package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/score"
)

// Target says for whom Deployments are.
type Target struct {
	// Namespace is that of objects that have none.
	Namespace string
	// Labels are those that devices must have; without any it is app=NAME of the Deployment.
	Labels map[string]string
}

type document struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   objectMeta        `json:"metadata"`
	Data       map[string]string `json:"data,omitempty"`
	Spec       *spec             `json:"spec,omitempty"`
}

type objectMeta struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels,omitempty"`
}

type spec struct {
	TargetSelector metav1.LabelSelector `json:"targetSelector"`
	Score          struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	} `json:"score"`
}

// YAML prints a result, after a comment with what agent.yaml of devices has to allow. The server
// takes every Deployment of it: one that it would not is an error.
func YAML(r *Result, to Target) ([]byte, error) {
	var b bytes.Buffer
	comment, err := allowing(r.Deployments)
	if err != nil {
		return nil, err
	}
	b.WriteString(comment)
	for _, c := range r.ConfigMaps {
		if err := to.print(&b, "", document{APIVersion: "v1", Kind: "ConfigMap", Metadata: objectMeta{Name: c.Name, Namespace: c.Namespace}, Data: c.Data}); err != nil {
			return nil, err
		}
	}
	for i := range r.Deployments {
		if err := to.deployment(&b, &r.Deployments[i]); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func (to Target) deployment(b *bytes.Buffer, d *Deployment) error {
	if err := Check(&d.Score); err != nil {
		return fmt.Errorf("the translation of %s would be refused, which is a fault of the converter: %w", d.Name, err)
	}
	data, err := json.Marshal(d.Score)
	if err != nil {
		return err
	}
	s := &spec{}
	labels := map[string]string{}
	maps.Copy(labels, d.NodeSelector)
	maps.Copy(labels, to.Labels)
	if len(to.Labels) == 0 {
		labels["app"] = d.Name
	}
	s.TargetSelector.MatchLabels = labels
	s.Score.Type, s.Score.Data = score.TypePodmanV0, data
	comment := ""
	if needs := d.Score.Demands().Privilege(); needs > score.Baseline {
		comment = fmt.Sprintf("# Its namespace needs privilege %s.\n", needs)
	}
	return to.print(b, comment, document{APIVersion: "fleet.nationtech.io/v1alpha1", Kind: "Deployment", Metadata: objectMeta{d.Name, d.Namespace, d.Labels}, Spec: s})
}

func (to Target) print(b *bytes.Buffer, comment string, d document) error {
	if d.Metadata.Namespace == "" {
		d.Metadata.Namespace = to.Namespace
	}
	text, err := yaml.Marshal(d)
	if err != nil {
		return err
	}
	if bytes.Contains(b.Bytes(), []byte("\nkind: ")) { // after a comment alone is no document
		b.WriteString("---\n")
	}
	b.WriteString(comment)
	b.Write(text)
	return nil
}
