package acceptance

import (
	"fmt"
	"slices"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Template renders a score that differs from device to device. It implements
// assignment.Template.
type Template struct {
	score     *score.Template
	namespace string
	labels    map[string]string
	// objects are what the score needs on each device.
	objects []string
}

// Sources implements assignment.Template.
func (t *Template) Sources() []template.Source { return t.score.Sources() }

// Render implements assignment.Template. What a device claims is in what was rendered, so all
// that is asked of a score at admission is asked of it once more.
func (t *Template) Render(values template.Values) ([]byte, error) {
	document, err := t.score.Render(values)
	if err != nil {
		return nil, fmt.Errorf("spec.score.%w", err)
	}
	needs, err := document.Validate()
	if err := refuse(err, needs, t.namespace, t.labels); err != nil {
		return nil, fmt.Errorf("with the values of this device: %w", err)
	}
	if !slices.Equal(objectsOf(&needs), t.objects) {
		return nil, fmt.Errorf("with the values of this device the score needs other Secrets or ConfigMaps than without them")
	}
	body, err := document.Canonical()
	if err != nil {
		return nil, fmt.Errorf("with the values of this device: spec.score.%w", err)
	}
	return body, nil
}

// templateOf returns nil for a score that is the same on each device.
func templateOf(document *score.Document, namespace string, labels map[string]string, objects []string) *Template {
	t := document.Template()
	if t == nil {
		return nil
	}
	return &Template{t, namespace, labels, objects}
}

// TemplateOf returns the template of a body that was accepted once, and nil for one that is the
// same on each device. It fails for a template that is not valid now: no device may have that as
// it is.
func TemplateOf(body []byte, namespace string, labels map[string]string) (*Template, error) {
	if !template.Is(string(body)) {
		return nil, nil //nolint:nilnil // it is no template
	}
	kept, err := wire.Decode[wire.Score](body, wire.MaxScoreSize)
	if err != nil {
		return nil, err
	}
	document, err := score.Parse(kept.Type, kept.Data)
	if err != nil || document.Template() == nil {
		return nil, err
	}
	needs, err := document.Validate()
	if err != nil {
		return nil, err
	}
	return templateOf(document, namespace, labels, objectsOf(&needs)), nil
}
