package assignment

import "fleet.nationtech.io/fleet/pkg/wire"

// Progress is what a device is fetching for a Deployment, and how far that is. It is never
// changed.
type Progress struct {
	Device, Text string
}

// setProgress notes what a device is fetching, and reports whether there is something else
// to show. Only one device is shown, until it has what it fetches: a status for each report
// of ten thousand devices would be a burden, and to read them all is nobody's wish.
func (d *deployment) setProgress(device, text string) (changed bool) {
	switch shown := d.progress; {
	case shown == nil && text == "", shown != nil && shown.Device != device, shown != nil && shown.Text == text:
		return false
	case text == "":
		d.progress = nil
	default:
		d.progress = &Progress{device, text}
	}
	return true
}

// progressOf is what a report, if there is one, says of it. What is not wanted on a device
// the device has nothing to say about.
func progressOf(x target, s *wire.DeploymentState) string {
	if s == nil || !x.is(wanted) {
		return ""
	}
	return s.Progress
}
