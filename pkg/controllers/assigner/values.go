package assigner

import (
	"strconv"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

// deviceValues are what scores may use of a device besides its name and labels. They keep
// its annotations and its inventory, not the object.
func deviceValues(d *v1alpha1.Device) template.Values {
	annotations, inventory := d.Annotations, d.Spec.Inventory
	return func(s template.Source) (string, bool) {
		switch {
		case s.Kind == template.Annotations:
			value, has := annotations[s.Key]
			return value, has
		case s.Kind == template.Inventory && inventory != nil:
			value := inventoryValue(inventory, s.Key)
			return value, value != ""
		}
		return "", false
	}
}

// inventoryValue is empty for what a device does not report.
func inventoryValue(i *v1alpha1.Inventory, key string) string {
	number := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	switch key {
	case "hostname":
		return i.Hostname
	case "arch":
		return i.Arch
	case "os":
		return i.OS
	case "osVersion":
		return i.OSVersion
	case "cpuCores":
		return number(int64(i.CPUCores))
	case "memoryMiB":
		return number(i.MemoryMiB)
	case "address":
		if len(i.Addresses) > 0 {
			return i.Addresses[0]
		}
	}
	return ""
}
