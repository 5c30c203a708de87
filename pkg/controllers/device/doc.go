// Package device keeps Device objects in step with their devices: inventory,
// labels and conditions from what devices report, Connected from whether they
// are heard, and what follows from revoking or deleting a Device.
package device
