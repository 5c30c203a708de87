package device

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// maxReportedLabels bounds what one device can put on its object.
const maxReportedLabels = 64

// labelPolicy decides which labels a device gets.
type labelPolicy struct {
	device string
	// allowed are the plain keys that the device's token lets it set.
	allowed []string
	// foreign reports whether somebody else set the label: the operator wins.
	foreign func(key string) bool
}

// apply returns the labels that the server sets on the Device, what was
// dropped and why, for an event, and whether the device asked for plain labels
// that it may not set.
func (p labelPolicy) apply(info wire.DeviceInfo) (labels map[string]string, dropped []string, overreached bool) {
	labels = map[string]string{v1alpha1.LabelDeviceID: p.device, v1alpha1.LabelOS: "linux"}
	if arch := info.Inventory.Arch; len(validation.IsValidLabelValue(arch)) == 0 && arch != "" {
		labels[v1alpha1.LabelArch] = arch
	}
	for i, key := range slices.Sorted(maps.Keys(info.Labels)) {
		if i >= maxReportedLabels {
			dropped = append(dropped, fmt.Sprintf("everything after the first %d labels", maxReportedLabels))
			break
		}
		name, value := p.nameFor(key), info.Labels[key]
		if reason := p.refuse(name, value); reason != "" {
			dropped = append(dropped, fmt.Sprintf("%.80q: %s", key, reason))
			continue
		}
		labels[name] = value
		overreached = overreached || name != key
	}
	return labels, dropped, overreached
}

// nameFor keeps a key that the token allows, and moves every other one under
// the prefix for claims, so that a device cannot label itself into a group.
func (p labelPolicy) nameFor(key string) string {
	if slices.Contains(p.allowed, key) && !v1alpha1.IsServerLabel(key) {
		return key
	}
	return v1alpha1.ReportedLabelPrefix + strings.ReplaceAll(key, "/", ".")
}

func (p labelPolicy) refuse(name, value string) string {
	if errs := validation.IsQualifiedName(name); len(errs) > 0 {
		return errs[0]
	}
	if errs := validation.IsValidLabelValue(value); len(errs) > 0 {
		return fmt.Sprintf("value %.80q: %s", value, errs[0])
	}
	if p.foreign(name) {
		return "the operator has set this label"
	}
	return ""
}
