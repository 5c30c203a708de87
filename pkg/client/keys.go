package client

import (
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/roster"
)

// KeysOf returns the keys of a Device that has enrolled.
func KeysOf(d *v1alpha1.Device) roster.Keys {
	e := d.Spec.Enrollment
	return roster.Keys{Current: e.KeyFingerprint, Next: e.NextKeyFingerprint, Version: VersionOf(d)}
}

// VersionOf returns the version of a Device object.
func VersionOf(d *v1alpha1.Device) roster.Version {
	return roster.Version{UID: string(d.UID), Generation: d.Generation}
}
