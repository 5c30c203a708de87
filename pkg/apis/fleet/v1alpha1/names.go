package v1alpha1

import "strings"

// Finalizers.
const (
	// DeploymentFinalizer keeps a Deployment until its desired-state keys are gone.
	DeploymentFinalizer = GroupName + "/finalizer"
	// DeviceFinalizer keeps a Device until its key is refused, its connection
	// dropped and its bucket keys are gone.
	DeviceFinalizer = GroupName + "/device"
)

// Labels.
const (
	// LabelDeviceID is the name of the Device, set by the server.
	LabelDeviceID = GroupName + "/device-id"
	// LabelShortDeviceID is the name of the Device, too, under the key that people
	// write in selectors. The server sets it.
	LabelShortDeviceID = "device-id"
	// LabelArch is the architecture that the device claimed in its first report. It is
	// kept when the device claims another.
	LabelArch = "kubernetes.io/arch"
	// LabelOS is always linux.
	LabelOS = "kubernetes.io/os"
	// ReportedLabelPrefix precedes the labels that a device claims for itself
	// and that its token does not let it set as they are.
	ReportedLabelPrefix = "device." + GroupName + "/"
	// LabelPrivilege on a namespace bounds what its Deployments may ask of a
	// device: restricted, baseline (the default) or privileged.
	LabelPrivilege = GroupName + "/privilege"
)

// What a ControllerRevision of a Deployment says.
const (
	// LabelDeployment on a revision is the name of its Deployment.
	LabelDeployment = GroupName + "/deployment"
	// AnnotationScoreHash is the SHA-256 of the score, as in manifests and reports.
	AnnotationScoreHash = GroupName + "/score-hash"
	// AnnotationChangedAt is when the score was last made the present one, in RFC 3339.
	AnnotationChangedAt = GroupName + "/changed-at"
	// AnnotationChangedBy is the field manager that set the score, such as
	// kubectl-client-side-apply.
	AnnotationChangedBy = GroupName + "/changed-by"
	// AnnotationChangeCause is why, in the words of whoever changed the Deployment.
	AnnotationChangeCause = "kubernetes.io/change-cause"
)

// IsServerLabel reports whether the server itself sets a label on Devices,
// whatever a token says.
func IsServerLabel(key string) bool {
	return key == LabelDeviceID || key == LabelShortDeviceID || key == LabelArch || key == LabelOS || strings.HasPrefix(key, ReportedLabelPrefix)
}

// IdentityLabels are those that every Device has, whoever else sets them.
func IdentityLabels(device string) map[string]string {
	return map[string]string{LabelDeviceID: device, LabelShortDeviceID: device, LabelOS: "linux"}
}
