package v1alpha1

// The conditions of each kind and their reasons. The comment of a type begins with
// its polarity: "good when True", or "a problem when True". What to do about each is
// on the page of the kind in docs/reference.

// Condition types of a Deployment.
const (
	// DeploymentAccepted is good when True: the score was checked and may be sent to
	// devices.
	DeploymentAccepted = "Accepted"
	// DeploymentProgressing is good when False: every matched device has reported the
	// current score. True: some have not reported it yet.
	DeploymentProgressing = "Progressing"
	// DeploymentAvailable is good when True: every matched device runs the current
	// score.
	DeploymentAvailable = "Available"
	// DeploymentReady is good when True: the rollout is complete, or there is nothing
	// to roll out. Ready, Reconciling and Stalled are those that Helm, Flux, Argo CD
	// and kubectl wait understand (kstatus).
	DeploymentReady = "Ready"
	// DeploymentReconciling is a problem when True: some matched devices do not run the
	// current score yet. It is absent otherwise.
	DeploymentReconciling = "Reconciling"
	// DeploymentStalled is a problem when True: the score was refused, or devices failed
	// to run it. It is absent otherwise.
	DeploymentStalled = "Stalled"
)

// Reasons of Deployment conditions.
const (
	// ReasonValid: the score passed validation.
	ReasonValid = "Valid"
	// ReasonUnknownType: the server does not know the score type. It passes the score on
	// unread where its configuration lists the type, and otherwise not at all.
	ReasonUnknownType = "UnknownType"
	// ReasonInvalid: a field of the score is wrong; the message names it.
	ReasonInvalid = "Invalid"
	// ReasonPrivilegeExceeded: the score needs more than its namespace is allowed.
	ReasonPrivilegeExceeded = "PrivilegeExceeded"
	// ReasonSecretUnavailable: a Secret that the score names is missing or too long.
	ReasonSecretUnavailable = "SecretUnavailable"
	// ReasonConfigMapUnavailable: a ConfigMap that the score names is missing or too long.
	ReasonConfigMapUnavailable = "ConfigMapUnavailable"
	// ReasonInvalidSelector: the target selector cannot be read.
	ReasonInvalidSelector = "InvalidSelector"
	// ReasonNoDevicesMatched: the selector matches no device.
	ReasonNoDevicesMatched = "NoDevicesMatched"
	// ReasonRolling: some devices have not reported the current score yet.
	ReasonRolling = "Rolling"
	// ReasonComplete: every matched device runs the current score.
	ReasonComplete = "Complete"
	// ReasonDevicesFailed: at least one matched device failed; see status.aggregate.lastError.
	ReasonDevicesFailed = "DevicesFailed"
	// ReasonHeld: the score is not accepted, so devices keep what they run.
	ReasonHeld = "Held"
)

// Condition types of a Device that the server sets.
const (
	// DeviceReady is good when True: the device is connected and podman answers.
	DeviceReady = "Ready"
	// DeviceReconciling is a problem when True: the device is not connected, or has not
	// reported on podman yet, and may become ready by itself. It is absent otherwise.
	DeviceReconciling = "Reconciling"
	// DeviceStalled is a problem when True: the device was revoked, its key or its agent is
	// refused, or its podman does not answer. It is absent otherwise.
	DeviceStalled = "Stalled"
	// DeviceConnected is good when True: the server hears from the device.
	DeviceConnected = "Connected"
	// DeviceCloneSuspected is a problem when True: a session presented an old nonce or
	// key of this device, or was active at the same time as the device, as a copy
	// would. The session gets nothing new until an operator decides.
	DeviceCloneSuspected = "CloneSuspected"
	// DeviceAgentOutdated is a problem when True: a Deployment needs a capability that
	// the device's agent lacks. The device keeps running the previous score of that
	// Deployment.
	DeviceAgentOutdated = "AgentOutdated"
	// DeviceScoresRendered is good when True: the device has the labels and other values that
	// the scores of its Deployments use. It is absent until one is missing.
	DeviceScoresRendered = "ScoresRendered"
)

// Condition types of a Device that the device reports. They become Unknown when
// the server no longer hears from it.
const (
	// DevicePodmanReady is good when True: podman answers.
	DevicePodmanReady = "PodmanReady"
	// DeviceDiskPressure is a problem when True: the state directory or the image store
	// is nearly full.
	DeviceDiskPressure = "DiskPressure"
	// DeviceManifestHeld is a problem when True: the agent refused a manifest, or
	// keeps Deployments that a manifest omits.
	DeviceManifestHeld = "ManifestHeld"
	// DeviceSetupComplete is good when True: setup-user succeeded.
	DeviceSetupComplete = "SetupComplete"
	// DeviceSubordinateIDsReady is good when True: the containers' account has enough
	// subordinate ids.
	DeviceSubordinateIDsReady = "SubordinateIDsReady"
	// DeviceLingerEnabled is good when True: systemd runs for the containers' account
	// from the boot on.
	DeviceLingerEnabled = "LingerEnabled"
	// DeviceCgroupDelegated is good when True: containers can be limited in processor
	// time, memory and processes.
	DeviceCgroupDelegated = "CgroupDelegated"
	// DeviceLayersShared is good when True: images and containers share layers.
	DeviceLayersShared = "LayersShared"
	// DeviceClockCorrect is good when True: the system's clock agrees with the server's.
	DeviceClockCorrect = "ClockCorrect"
	// DeviceCertificateCurrent is good when True: the device's certificate is valid, and
	// renewed in time.
	DeviceCertificateCurrent = "CertificateCurrent"
	// DeviceWouldSurviveReboot is good when True: after a restart without a network, the
	// device would run what it is to run.
	DeviceWouldSurviveReboot = "WouldSurviveReboot"
	// DeviceGroupsCurrent is good when True: the processes of the containers' account have
	// all groups that it is in.
	DeviceGroupsCurrent = "GroupsCurrent"
	// DeviceScoresAllowed is good when True: agent.yaml of the device allows what its
	// Deployments ask for.
	DeviceScoresAllowed = "ScoresAllowed"
)

// Reasons of Device conditions that the server sets.
const (
	// ReasonHeartbeatsArrive: messages arrive.
	ReasonHeartbeatsArrive = "HeartbeatsArrive"
	// ReasonNoHeartbeat: no message arrived for three heartbeat intervals.
	ReasonNoHeartbeat = "NoHeartbeat"
	// ReasonNeverConnected: the device enrolled but has not connected yet.
	ReasonNeverConnected = "NeverConnected"
	// ReasonDisconnected: what the device reported may be out of date.
	ReasonDisconnected = "Disconnected"
	// ReasonRevoked: the operator revoked the device.
	ReasonRevoked = "Revoked"
	// ReasonKeyRefused: the device's key was revoked or replaced, though its Device does not
	// say so, as after the restore of an older backup.
	ReasonKeyRefused = "KeyRefused"
	// ReasonAgentTooOld: the server refuses the device's agent until it is upgraded.
	ReasonAgentTooOld = "AgentTooOld"
	// ReasonOperational: nothing is wrong.
	ReasonOperational = "Operational"
	// ReasonPodmanNotReady: the device reports that podman does not answer.
	ReasonPodmanNotReady = "PodmanNotReady"
	// ReasonOneDevice: every session presented a current nonce.
	ReasonOneDevice = "OneDevice"
	// ReasonStaleNonce: a session presented an old nonce, or none.
	ReasonStaleNonce = "StaleNonce"
	// ReasonTwoSessions: two sessions of the device are active at the same time.
	ReasonTwoSessions = "TwoSessions"
	// ReasonRetiredKey: a session presented a key that a renewal had replaced.
	ReasonRetiredKey = "RetiredKey"
	// ReasonUnprovenFlood: sessions that have not proven that they are the device send
	// too much, or crowd each other out.
	ReasonUnprovenFlood = "UnprovenFlood"
	// ReasonNotAccepted: a session other than the one that the operator accepted made
	// a request.
	ReasonNotAccepted = "NotAccepted"
	// ReasonCapabilityMissing: the message names the Deployment and what it needs.
	ReasonCapabilityMissing = "CapabilityMissing"
	// ReasonCapable: the agent can do what every Deployment needs.
	ReasonCapable = "Capable"
	// ReasonRendered: the device has what every Deployment uses of it.
	ReasonRendered = "Rendered"
	// ReasonRenderingFailed: the message names the Deployment, the field and what the device
	// lacks. The device keeps what it runs of that Deployment.
	ReasonRenderingFailed = "RenderingFailed"
	// ReasonReported replaces a reason of the device that has an invalid form.
	ReasonReported = "Reported"
)

// Reasons of Device conditions that the device reports.
const (
	// ReasonPodmanAnswers: PodmanReady is True.
	ReasonPodmanAnswers = "PodmanAnswers"
	// ReasonPodmanUnavailable: PodmanReady is False; the agent keeps trying.
	ReasonPodmanUnavailable = "PodmanUnavailable"
	// ReasonSpaceLeft: DiskPressure is False.
	ReasonSpaceLeft = "SpaceLeft"
	// ReasonNearlyFull: DiskPressure is True.
	ReasonNearlyFull = "NearlyFull"
	// ReasonFull: DiskPressure is True, and writes fail or are about to.
	ReasonFull = "Full"
	// ReasonManifestCurrent: ManifestHeld is False.
	ReasonManifestCurrent = "ManifestCurrent"
	// ReasonOmissionsHeld: a manifest of another epoch omits Deployments that run on
	// the device.
	ReasonOmissionsHeld = "OmissionsHeld"
	// ReasonOlderManifest: the server answered with an older manifest than the device
	// has.
	ReasonOlderManifest = "OlderManifest"
	// ReasonInvalidManifest: the server's answer is unusable.
	ReasonInvalidManifest = "InvalidManifest"
	// ReasonDamagedManifest: the last manifest was damaged on the device's disk.
	ReasonDamagedManifest = "DamagedManifest"
	// ReasonNothingMissing: WouldSurviveReboot is True.
	ReasonNothingMissing = "NothingMissing"
	// ReasonMissing: WouldSurviveReboot is False; the message names what is missing.
	ReasonMissing = "Missing"
	// ReasonNotLookedAt: WouldSurviveReboot is Unknown, as while podman does not answer.
	ReasonNotLookedAt = "NotLookedAt"
	// ReasonNotKnown: the agent could not check; the message says why.
	ReasonNotKnown = "NotKnown"
	// ReasonSetupSucceeded: SetupComplete is True.
	ReasonSetupSucceeded = "SetupSucceeded"
	// ReasonSetupFailed: SetupComplete is False.
	ReasonSetupFailed = "SetupFailed"
	// ReasonIDsAllocated: SubordinateIDsReady is True.
	ReasonIDsAllocated = "IDsAllocated"
	// ReasonIDsMissing: SubordinateIDsReady is False.
	ReasonIDsMissing = "IDsMissing"
	// ReasonLingerOn: LingerEnabled is True.
	ReasonLingerOn = "LingerOn"
	// ReasonLingerOff: LingerEnabled is False.
	ReasonLingerOff = "LingerOff"
	// ReasonControllersDelegated: CgroupDelegated is True.
	ReasonControllersDelegated = "ControllersDelegated"
	// ReasonControllersMissing: CgroupDelegated is False.
	ReasonControllersMissing = "ControllersMissing"
	// ReasonLayersReused: LayersShared is True.
	ReasonLayersReused = "LayersReused"
	// ReasonLayersCopied: LayersShared is False.
	ReasonLayersCopied = "LayersCopied"
	// ReasonClockAgrees: ClockCorrect is True.
	ReasonClockAgrees = "ClockAgrees"
	// ReasonClockWrong: ClockCorrect is False.
	ReasonClockWrong = "ClockWrong"
	// ReasonCertificateValid: CertificateCurrent is True.
	ReasonCertificateValid = "CertificateValid"
	// ReasonNotCurrent: CertificateCurrent is False.
	ReasonNotCurrent = "NotCurrent"
	// ReasonGroupsInUse: GroupsCurrent is True.
	ReasonGroupsInUse = "GroupsInUse"
	// ReasonLoginOutdated: GroupsCurrent is False; the account has to log in anew.
	ReasonLoginOutdated = "LoginOutdated"
	// ReasonNothingRefused: ScoresAllowed is True.
	ReasonNothingRefused = "NothingRefused"
	// ReasonNotAllowed: ScoresAllowed is False; the message names the fields.
	ReasonNotAllowed = "NotAllowed"
)

// Condition types of an EnrollmentRequest. An operator approves or denies a
// request by setting Approved or Denied to True, and Approved together with
// status.approvedKeyFingerprint.
const (
	// RequestPending is good when False: an operator decided.
	RequestPending = "Pending"
	// RequestApproved is good when True: an operator approved the request.
	RequestApproved = "Approved"
	// RequestDenied is a problem when True: an operator denied the request, and no
	// other machine may use its name.
	RequestDenied = "Denied"
)

// Reasons of EnrollmentRequest conditions.
const (
	// ReasonAwaitsOperator: nobody has decided yet.
	ReasonAwaitsOperator = "AwaitsOperator"
	// ReasonDecided: an operator decided.
	ReasonDecided = "Decided"
	// ReasonOperator: an operator decided with fleet-server device.
	ReasonOperator = "Operator"
	// ReasonKeyNotNamed: the server withdrew an approval that did not name the key of
	// the request.
	ReasonKeyNotNamed = "KeyNotNamed"
)

// Condition types of an EnrollmentToken.
const (
	// TokenUsable is good when True: devices can enroll with the token.
	TokenUsable = "Usable"
)

// Reasons of EnrollmentToken conditions.
const (
	// ReasonUsable: the token has uses and time left.
	ReasonUsable = "Usable"
	// ReasonExpired: the token has expired.
	ReasonExpired = "Expired"
	// ReasonUsedUp: spec.maxUses devices enrolled with the token.
	ReasonUsedUp = "UsedUp"
)
