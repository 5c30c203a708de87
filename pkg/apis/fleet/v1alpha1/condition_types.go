package v1alpha1

// Condition types of a Deployment. True is the good state of each.
const (
	// DeploymentAccepted: the score was checked and may be sent to devices.
	DeploymentAccepted = "Accepted"
	// DeploymentProgressing: some matched devices have not yet reported the
	// current score.
	DeploymentProgressing = "Progressing"
	// DeploymentAvailable: every matched device runs the current score.
	DeploymentAvailable = "Available"
)

// Reasons of Deployment conditions.
const (
	// ReasonValid: the score passed validation.
	ReasonValid = "Valid"
	// ReasonUnvalidated: the server does not know the score type and routes it
	// as it is.
	ReasonUnvalidated = "UnknownType"
	// ReasonInvalid: a field of the score is wrong; the message names it.
	ReasonInvalid = "Invalid"
	// ReasonPrivilege: the score needs more than its namespace is allowed.
	ReasonPrivilege = "PrivilegeExceeded"
	// ReasonSecret: a Secret that the score names is missing or too long.
	ReasonSecret = "SecretUnavailable"
	// ReasonSelector: the target selector cannot be read.
	ReasonSelector = "InvalidSelector"
	// ReasonNoDevices: the selector matches no device.
	ReasonNoDevices = "NoDevicesMatched"
	// ReasonRolling: devices are still on their way to the current score.
	ReasonRolling = "Rolling"
	// ReasonComplete: every matched device runs the current score.
	ReasonComplete = "Complete"
	// ReasonFailing: at least one matched device failed; see status.aggregate.lastError.
	ReasonFailing = "DevicesFailed"
	// ReasonHeld: the score is not accepted, so devices keep what they run.
	ReasonHeld = "Held"
)

// Condition types of a Device. True is the good state, except for
// DiskPressure, ManifestHeld, CloneSuspected and AgentOutdated, which are problems.
const (
	// DeviceReady: the device is connected and podman answers.
	DeviceReady = "Ready"
	// DeviceConnected: the server hears from the device.
	DeviceConnected = "Connected"
	// DevicePodmanReady, DeviceDiskPressure and DeviceManifestHeld come from the device.
	DevicePodmanReady  = "PodmanReady"
	DeviceDiskPressure = "DiskPressure"
	DeviceManifestHeld = "ManifestHeld"
	// DeviceCloneSuspected: a session showed a nonce or a key that this device had
	// before, or talked beside it, as a copy would. It gets nothing new until an
	// operator decides.
	DeviceCloneSuspected = "CloneSuspected"
	// DeviceAgentOutdated: a Deployment needs what the device's agent cannot do. The
	// device keeps what it runs of it.
	DeviceAgentOutdated = "AgentOutdated"
)

// Reasons of Device conditions.
const (
	// ReasonHeard: messages arrive.
	ReasonHeard = "HeartbeatsArrive"
	// ReasonSilent: no message arrived for three heartbeat intervals.
	ReasonSilent = "NoHeartbeat"
	// ReasonNeverConnected: the device enrolled but has not connected yet.
	ReasonNeverConnected = "NeverConnected"
	// ReasonDisconnected: what the device reported may be out of date.
	ReasonDisconnected = "Disconnected"
	// ReasonRevoked: the operator threw the device out.
	ReasonRevoked = "Revoked"
	// ReasonStaleNonce: a session showed an old nonce, or none.
	ReasonStaleNonce = "StaleNonce"
	// ReasonOneDevice: every session showed a current nonce.
	ReasonOneDevice = "OneDevice"
	// ReasonOperational: nothing is wrong.
	ReasonOperational = "Operational"
	// ReasonCapabilityMissing: the message names the Deployment and what it needs.
	ReasonCapabilityMissing = "CapabilityMissing"
	// ReasonCapable: the agent can do what every Deployment needs.
	ReasonCapable = "Capable"
	// ReasonPodmanNotReady: the device reports that podman does not answer.
	ReasonPodmanNotReady = "PodmanNotReady"
)

// Condition types of an EnrollmentRequest. An operator approves or denies a
// request by setting Approved or Denied to True, and Approved together with
// status.approvedKeyFingerprint.
const (
	RequestPending  = "Pending"
	RequestApproved = "Approved"
	RequestDenied   = "Denied"
)

// Reasons of EnrollmentRequest conditions.
const (
	// ReasonAwaitsOperator: nobody has decided yet.
	ReasonAwaitsOperator = "AwaitsOperator"
	// ReasonDecided: an operator decided.
	ReasonDecided = "Decided"
	// ReasonKeyNotNamed: an approval was taken back, since it did not name the key
	// of the request.
	ReasonKeyNotNamed = "KeyNotNamed"
)

// Condition types and reasons of an EnrollmentToken.
const (
	// TokenUsable: devices can enroll with the token.
	TokenUsable = "Usable"

	ReasonUsable  = "Usable"
	ReasonExpired = "Expired"
	ReasonUsedUp  = "UsedUp"
)
