package events

import "fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"

// TokenUnusable tells why a token lets no more devices in, with the reason and message
// of condition Usable.
func TokenUnusable(reason, message string) Event { return normal(reason, "%s", message) }

// RequestAwaitsOperator tells that somebody has to decide about a device.
func RequestAwaitsOperator(device, fingerprint string) Event {
	return normal(v1alpha1.ReasonAwaitsOperator, "a device with the key %s waits: `fleet-server device approve %s`, or deny", fingerprint, device)
}

// RequestDenied tells that an operator denied the request of a device.
func RequestDenied(fingerprint string) Event {
	return normal(v1alpha1.RequestDenied, "an operator denied the device with the key %s", fingerprint)
}

// RequestNotGranted tells why an approved device does not get in.
func RequestNotGranted(why string) Event { return warning("NotGranted", "%s", why) }
