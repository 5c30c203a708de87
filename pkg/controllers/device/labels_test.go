package device_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func nobody(string) bool { return false }

func TestLabelsThatADeviceGets(t *testing.T) {
	t.Parallel()
	const claimed = v1alpha1.ReportedLabelPrefix
	own := func(more map[string]string) map[string]string {
		labels := map[string]string{v1alpha1.LabelDeviceID: "edge-1", v1alpha1.LabelShortDeviceID: "edge-1", v1alpha1.LabelOS: "linux"}
		for k, v := range more {
			labels[k] = v
		}
		return labels
	}
	for name, tc := range map[string]struct {
		allowed []string
		foreign []string
		arch    string
		asked   map[string]string
		want    map[string]string
		dropped []string // what each of them says
	}{
		"nothing":                  {want: own(nil)},
		"arch":                     {arch: "arm64", want: own(map[string]string{v1alpha1.LabelArch: "arm64"})},
		"arch that is no label":    {arch: "not valid!", want: own(nil)},
		"a claim":                  {asked: map[string]string{"group": "a"}, want: own(map[string]string{claimed + "group": "a"})},
		"an empty value":           {asked: map[string]string{"group": ""}, want: own(map[string]string{claimed + "group": ""})},
		"an allowed key":           {allowed: []string{"group"}, asked: map[string]string{"group": "a"}, want: own(map[string]string{"group": "a"})},
		"an allowed key of others": {allowed: []string{"group"}, asked: map[string]string{"groups": "a"}, want: own(map[string]string{claimed + "groups": "a"})},
		"the operator set it":      {allowed: []string{"group"}, foreign: []string{"group"}, asked: map[string]string{"group": "a"}, want: own(nil), dropped: []string{"operator"}},
		"the operator set a claim": {foreign: []string{claimed + "group"}, asked: map[string]string{"group": "a"}, want: own(nil), dropped: []string{"operator"}},
		"a key with a prefix":      {asked: map[string]string{"example.com/rack": "r"}, want: own(map[string]string{claimed + "example.com.rack": "r"})},
		"the server's keys":        {asked: map[string]string{v1alpha1.LabelDeviceID: "edge-2"}, want: own(map[string]string{claimed + "fleet.nationtech.io.device-id": "edge-2"})},
		"the server's keys allowed": {allowed: []string{v1alpha1.LabelDeviceID, v1alpha1.LabelArch, v1alpha1.LabelOS}, arch: "arm64", asked: map[string]string{v1alpha1.LabelDeviceID: "edge-2", v1alpha1.LabelArch: "vax", v1alpha1.LabelOS: "vms"}, want: own(map[string]string{
			v1alpha1.LabelArch: "arm64", claimed + "fleet.nationtech.io.device-id": "edge-2", claimed + "kubernetes.io.arch": "vax", claimed + "kubernetes.io.os": "vms",
		})},
		"the short key": {allowed: []string{v1alpha1.LabelShortDeviceID}, foreign: []string{v1alpha1.LabelShortDeviceID}, asked: map[string]string{v1alpha1.LabelShortDeviceID: "edge-2"}, want: own(map[string]string{claimed + "device-id": "edge-2"})},
		"a bad value":   {allowed: []string{"group"}, asked: map[string]string{"group": "not valid!"}, want: own(nil), dropped: []string{"value"}},
		"a long value":  {asked: map[string]string{"group": strings.Repeat("a", 64)}, want: own(nil), dropped: []string{"63"}},
		"a bad key":     {asked: map[string]string{"not valid!": "a"}, want: own(nil), dropped: []string{"not valid!"}},
		"an empty key":  {asked: map[string]string{"": "a"}, want: own(nil), dropped: []string{`""`}},
		"a long key":    {asked: map[string]string{strings.Repeat("a", 64): "a"}, want: own(nil), dropped: []string{"63"}},
		"allowed, bad":  {allowed: []string{"a b"}, asked: map[string]string{"a b": "a"}, want: own(nil), dropped: []string{"a b"}},
		"good and bad":  {asked: map[string]string{"a": "1", "b": "!", "c": "3"}, want: own(map[string]string{claimed + "a": "1", claimed + "c": "3"}), dropped: []string{`"b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			foreign := func(key string) bool { return slices.Contains(tc.foreign, key) }
			info := wire.DeviceInfo{Labels: tc.asked, Inventory: wire.Inventory{Arch: tc.arch}}
			labels, dropped := device.Labels("edge-1", tc.allowed, foreign, info)
			if diff := cmp.Diff(tc.want, labels); diff != "" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
			if len(dropped) != len(tc.dropped) {
				t.Fatalf("dropped: %q, want %q", dropped, tc.dropped)
			}
			for i, says := range tc.dropped {
				if !strings.Contains(dropped[i], says) {
					t.Errorf("dropped: %q, want it to say %q", dropped[i], says)
				}
			}
		})
	}
}

// A device has the architecture that it reported first, or that an operator gave
// it, whatever it says later.
func TestArchitectureIsThatOfTheFirstReport(t *testing.T) {
	t.Parallel()
	set := func(key string) bool { return key == v1alpha1.LabelArch }
	for name, tc := range map[string]struct {
		has, reports string
		foreign      func(string) bool
		label        string
		other        bool
	}{
		"the first":          {"", "amd64", nobody, "amd64", false},
		"the same":           {"amd64", "amd64", nobody, "amd64", false},
		"another":            {"amd64", "arm64", nobody, "amd64", true},
		"none any more":      {"amd64", "", nobody, "amd64", false},
		"no label any more":  {"amd64", "not valid!", nobody, "amd64", false},
		"the operator's":     {"riscv64", "arm64", set, "", true}, // it stays his
		"none at all":        {"", "", nobody, "", false},
		"none that is valid": {"", "not valid!", nobody, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			label, other := device.Arch(tc.has, tc.foreign, wire.DeviceInfo{Inventory: wire.Inventory{Arch: tc.reports}})
			if label != tc.label || other != tc.other {
				t.Errorf("the label is %q, other: %v, want %q, %v", label, other, tc.label, tc.other)
			}
		})
	}
}

func TestTooManyLabels(t *testing.T) {
	t.Parallel()
	asked := map[string]string{}
	for i := range device.MaxReportedLabels + 10 {
		asked[fmt.Sprintf("key-%03d", i)] = "x"
	}
	labels, dropped := device.Labels("edge-1", nil, nobody, wire.DeviceInfo{Labels: asked})
	if n := len(labels) - 3; n != device.MaxReportedLabels || len(dropped) != 1 {
		t.Errorf("%d labels, dropped %q", n, dropped)
	}
}

// Whatever a device asks for, it sets nothing but claims and what its token
// allows, nothing that the operator set, and nothing that the API would refuse.
func TestDeviceCannotChooseItsLabels(t *testing.T) {
	t.Parallel()
	keys := []string{
		"group", "site", "example.com/rack", v1alpha1.LabelDeviceID, v1alpha1.LabelShortDeviceID, v1alpha1.LabelArch, v1alpha1.LabelOS, v1alpha1.LabelPrivilege,
		v1alpha1.ReportedLabelPrefix + "group", "device.fleet.nationtech.io", "../group", "a/b/c", "/", "group/",
	}
	anyKey := rapid.OneOf(rapid.SampledFrom(keys), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		allowed := rapid.SliceOfN(anyKey, 0, 4).Draw(t, "allowed")
		foreign := rapid.SliceOfN(rapid.SampledFrom(keys), 0, 3).Draw(t, "foreign")
		info := wire.DeviceInfo{
			Labels:    rapid.MapOfN(anyKey, rapid.OneOf(rapid.Just("a"), rapid.String()), 0, 80).Draw(t, "asked"),
			Inventory: wire.Inventory{Arch: rapid.OneOf(rapid.Just("arm64"), rapid.String()).Draw(t, "arch")},
		}
		labels, _ := device.Labels("edge-1", allowed, func(key string) bool { return slices.Contains(foreign, key) }, info)
		for key, value := range labels {
			if errs := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(errs) > 0 {
				t.Fatalf("the API would refuse %q=%q: %v", key, value, errs)
			}
			switch {
			case key == v1alpha1.LabelDeviceID && value == "edge-1",
				key == v1alpha1.LabelShortDeviceID && value == "edge-1",
				key == v1alpha1.LabelOS && value == "linux",
				key == v1alpha1.LabelArch && value == info.Inventory.Arch:
				continue
			case slices.Contains(foreign, key):
				t.Fatalf("the operator's %q is %q", key, value)
			case strings.HasPrefix(key, v1alpha1.ReportedLabelPrefix):
				continue
			case slices.Contains(allowed, key) && info.Labels[key] == value && key != v1alpha1.LabelDeviceID && key != v1alpha1.LabelShortDeviceID && key != v1alpha1.LabelOS && key != v1alpha1.LabelArch:
				continue
			}
			t.Fatalf("the device set %q=%q", key, value)
		}
	})
}

func TestLabelsOfAManager(t *testing.T) {
	t.Parallel()
	const mine = `{"f:metadata":{"f:labels":{"f:a":{},"f:example.com/b":{},"f:gone":{}}},"f:spec":{"f:inventory":{}}}`
	entry := func(manager string, op metav1.ManagedFieldsOperationType, subresource, json string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: op, Subresource: subresource, FieldsV1: metav1.NewFieldsV1(json)}
	}
	labels := map[string]string{"a": "1", "example.com/b": "2", "theirs": "3"}
	for name, tc := range map[string]struct {
		fields []metav1.ManagedFieldsEntry
		want   map[string]bool
		fails  bool
	}{
		"nothing":           {nil, map[string]bool{}, false},
		"applied":           {[]metav1.ManagedFieldsEntry{entry("me", "Apply", "", mine)}, map[string]bool{"a": true, "example.com/b": true}, false},
		"of another":        {[]metav1.ManagedFieldsEntry{entry("kubectl", "Apply", "", mine)}, map[string]bool{}, false},
		"updated":           {[]metav1.ManagedFieldsEntry{entry("me", "Update", "", mine)}, map[string]bool{}, false},
		"of a subresource":  {[]metav1.ManagedFieldsEntry{entry("me", "Apply", "status", mine)}, map[string]bool{}, false},
		"no fields":         {[]metav1.ManagedFieldsEntry{{Manager: "me", Operation: "Apply"}}, map[string]bool{}, false},
		"cannot be decoded": {[]metav1.ManagedFieldsEntry{entry("me", "Apply", "", `{"f:`)}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := device.LabelsOf(&v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Labels: labels, ManagedFields: tc.fields}}, "me")
			if (err != nil) != tc.fails {
				t.Fatalf("error is %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
		})
	}
}
