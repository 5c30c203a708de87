package plugin

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// target says which devices are meant.
type target struct {
	// selectors have the form of kubectl's, and a device has to match all of them.
	selectors []string
	// devices are names, of which a device has to have one. There may be commas between them.
	devices []string
	// all stands for every device.
	all bool
}

// selector is the targetSelector of a Deployment.
func (t target) selector() (metav1.LabelSelector, error) {
	chosen := len(t.selectors)+len(t.devices) > 0
	switch {
	case t.all && chosen:
		return metav1.LabelSelector{}, errors.New("--all stands for every device: leave out --selector and --target-device")
	case !t.all && !chosen:
		return metav1.LabelSelector{}, errors.New("no devices are chosen: use --selector or --target-device, or --all for every device, also those that enroll later")
	}
	s := requirements{labels: map[string]string{}}
	for _, text := range t.selectors {
		if err := s.add(text); err != nil {
			return metav1.LabelSelector{}, fmt.Errorf("--selector %.200q: %w", text, err)
		}
	}
	if err := s.addDevices(t.devices); err != nil {
		return metav1.LabelSelector{}, fmt.Errorf("--target-device: %w", err)
	}
	return metav1.LabelSelector{MatchLabels: s.labels, MatchExpressions: s.expressions}, nil
}

// requirements are what a selector is made of.
type requirements struct {
	labels      map[string]string
	expressions []metav1.LabelSelectorRequirement
}

// operators are those of expressions, by those of kubectl's selectors.
var operators = map[selection.Operator]metav1.LabelSelectorOperator{
	selection.In: metav1.LabelSelectorOpIn, selection.NotIn: metav1.LabelSelectorOpNotIn, selection.NotEquals: metav1.LabelSelectorOpNotIn,
	selection.Exists: metav1.LabelSelectorOpExists, selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist,
}

// add adds a selector. An empty one would match every device: most likely a variable of the
// shell is not set.
func (r *requirements) add(text string) error {
	parsed, err := labels.ParseToRequirements(text)
	if err != nil {
		return err
	}
	if len(parsed) == 0 {
		return errors.New("it selects nothing: use --all for every device")
	}
	for _, p := range parsed {
		values := slices.Sorted(slices.Values(p.ValuesUnsorted()))
		switch op := p.Operator(); op {
		case selection.Equals, selection.DoubleEquals:
			err = r.equal(p.Key(), values[0])
		default:
			expression := metav1.LabelSelectorRequirement{Key: p.Key(), Operator: operators[op], Values: values}
			if expression.Operator == "" {
				return fmt.Errorf("targetSelector has no operator %q", op)
			}
			r.expressions = append(r.expressions, expression)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *requirements) equal(key, value string) error {
	if other, again := r.labels[key]; again && other != value {
		return fmt.Errorf("no device has both %[1]s=%[2]s and %[1]s=%[3]s: write '%[1]s in (%[2]s,%[3]s)' for either", key, other, value)
	}
	r.labels[key] = value
	return nil
}

func (r *requirements) addDevices(names []string) error {
	if len(names) == 0 {
		return nil
	}
	var all []string
	for _, name := range strings.Split(strings.Join(names, ","), ",") {
		if err := wire.ValidateDevice(name); err != nil {
			return err
		}
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	if len(all) == 1 {
		return r.equal(v1alpha1.LabelShortDeviceID, all[0])
	}
	r.expressions = append(r.expressions, metav1.LabelSelectorRequirement{Key: v1alpha1.LabelShortDeviceID, Operator: metav1.LabelSelectorOpIn, Values: all})
	return nil
}
