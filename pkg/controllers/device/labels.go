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
	// arch is the architecture that the Device has by its label, if any.
	arch string
}

// grant is what a device gets of what it asks for.
type grant struct {
	// labels are those that the server sets on the Device.
	labels map[string]string
	// dropped says what was dropped and why, for an event.
	dropped []string
	// overreached: the device asked for plain labels that it may not set.
	overreached bool
	// otherArch: the device says that it has another architecture than its label.
	otherArch bool
}

// hasIdentity reports whether a Device has the labels that every device has.
func hasIdentity(d *v1alpha1.Device) bool {
	for key, value := range v1alpha1.IdentityLabels(d.Name) {
		if d.Labels[key] != value {
			return false
		}
	}
	return true
}

// apply decides about a report. A device has the architecture that it reported
// first: Deployments select by it, and whoever stole a device could claim another
// to get theirs.
func (p labelPolicy) apply(info wire.DeviceInfo) grant {
	g := grant{labels: v1alpha1.IdentityLabels(p.device)}
	arch := reportedArch(info)
	g.otherArch = arch != "" && p.arch != "" && arch != p.arch
	if p.arch != "" {
		arch = p.arch
	}
	if arch != "" && !p.foreign(v1alpha1.LabelArch) {
		g.labels[v1alpha1.LabelArch] = arch
	}
	p.applyAsked(info, &g)
	return g
}

// reportedArch is the architecture that a device claims, if it can be a label.
func reportedArch(info wire.DeviceInfo) string {
	if arch := info.Inventory.Arch; len(validation.IsValidLabelValue(arch)) == 0 {
		return arch
	}
	return ""
}

// applyAsked decides about the labels that the device asks for.
func (p labelPolicy) applyAsked(info wire.DeviceInfo, g *grant) {
	for i, key := range slices.Sorted(maps.Keys(info.Labels)) {
		if i >= maxReportedLabels {
			g.dropped = append(g.dropped, fmt.Sprintf("everything after the first %d labels", maxReportedLabels))
			break
		}
		name, value := p.nameFor(key), info.Labels[key]
		if reason := p.refuse(name, value); reason != "" {
			g.dropped = append(g.dropped, fmt.Sprintf("%.80q: %s", key, reason))
			continue
		}
		g.labels[name] = value
		g.overreached = g.overreached || name != key
	}
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
