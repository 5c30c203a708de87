package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Device is a machine that enrolled. Its name is the device id.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fleetdev,categories=fleet
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Connected",type=string,JSONPath=`.status.conditions[?(@.type=="Connected")].status`
// +kubebuilder:printcolumn:name="Arch",type=string,JSONPath=`.spec.inventory.arch`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.spec.inventory.agentVersion`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="OS",type=string,priority=1,JSONPath=`.spec.inventory.os`
// +kubebuilder:printcolumn:name="Podman",type=string,priority=1,JSONPath=`.spec.inventory.podmanVersion`
// +kubebuilder:printcolumn:name="IP",type=string,priority=1,JSONPath=`.spec.inventory.addresses[0]`
// +kubebuilder:printcolumn:name="Last Seen",type=date,priority=1,JSONPath=`.status.lastSeen`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="metadata.name must be at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit: it is the device id and part of bus subjects"
type Device struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec belongs to the operator, except inventory, which the device reports.
	// +optional
	Spec DeviceSpec `json:"spec,omitempty"`
	// status is written by the server.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status DeviceStatus `json:"status,omitempty"`
}

// IsOut reports whether the operator revoked the device.
func (d *Device) IsOut() bool { return d.Spec.Revoked || !d.DeletionTimestamp.IsZero() }

// HasKey reports whether the device may connect with the key of this fingerprint.
func (d *Device) HasKey(fingerprint string) bool {
	e := d.Spec.Enrollment
	return e != nil && (e.KeyFingerprint == fingerprint || e.NextKeyFingerprint == fingerprint)
}

// DeviceList is a list of Devices.
//
// +kubebuilder:object:root=true
type DeviceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Device `json:"items"`
}

// DeviceSpec is what the operator decides about a device, and its inventory.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.revoked) || !oldSelf.revoked || has(self.revoked) && self.revoked || !has(self.enrollment)",fieldPath=".revoked",reason=FieldValueForbidden,message="a revocation is final, because the device's keys are refused for good: to enroll the hardware again, delete the Device and run fleet-agent enroll --force with a new token"
type DeviceSpec struct {
	// unschedulable keeps new Deployments off the device. Deployments that run there
	// are kept.
	// +optional
	Unschedulable bool `json:"unschedulable,omitempty"`
	// revoked ends the device's access: its connection is dropped and its key is
	// refused for good, so it cannot be set back once a machine has enrolled. To enroll
	// the hardware again, delete the Device and run `fleet-agent enroll --force` with a
	// new token; this makes a new key.
	// +optional
	Revoked bool `json:"revoked,omitempty"`
	// onRevoke says what the device does with its workloads when it is revoked or
	// deleted and can still be reached. Keep, the default, keeps them running. Stop
	// stops the containers. Wipe deletes the containers, their volumes, secrets and
	// the device's key. A device that cannot be reached learns its policy when it next
	// tries to connect.
	// +optional
	// +kubebuilder:validation:Enum=Keep;Stop;Wipe
	// +kubebuilder:default=Keep
	OnRevoke RevocationPolicy `json:"onRevoke,omitempty"`
	// allowedNamespaces lists the namespaces whose Deployments may target the
	// device. Absent means all; an empty list means none.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	AllowedNamespaces *[]string `json:"allowedNamespaces,omitempty"`
	// inventory holds facts that the device reports about itself.
	// +optional
	// +nullable
	Inventory *Inventory `json:"inventory,omitempty"`
	// enrollment binds the name to the key that the device connects with. The
	// server sets it when the device enrolls.
	// +optional
	Enrollment *DeviceEnrollment `json:"enrollment,omitempty"`
}

// RevocationPolicy says what a revoked device does with its workloads: Keep, Stop or
// Wipe.
type RevocationPolicy string

// Values of RevocationPolicy.
const (
	RevokeKeep RevocationPolicy = "Keep"
	RevokeStop RevocationPolicy = "Stop"
	RevokeWipe RevocationPolicy = "Wipe"
)

// Inventory holds facts that a device reports about itself.
type Inventory struct {
	// hostname is the machine's own name.
	// +optional
	Hostname string `json:"hostname,omitempty"`
	// arch is the processor architecture: amd64, arm64, arm.
	// +optional
	Arch string `json:"arch,omitempty"`
	// os is the ID of os-release: debian, raspbian, fedora.
	// +optional
	OS string `json:"os,omitempty"`
	// osVersion is the VERSION_ID of os-release.
	// +optional
	OSVersion string `json:"osVersion,omitempty"`
	// kernel is the release of the running kernel.
	// +optional
	Kernel string `json:"kernel,omitempty"`
	// cpuCores is the number of logical processors.
	// +optional
	CPUCores int `json:"cpuCores,omitempty"`
	// memoryMiB is the physical memory in MiB.
	// +optional
	MemoryMiB int64 `json:"memoryMiB,omitempty"`
	// agentVersion is the version of fleet-agent.
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`
	// podmanVersion is the version of the podman service.
	// +optional
	PodmanVersion string `json:"podmanVersion,omitempty"`
	// addresses are the IP addresses of the device, the preferred one first.
	// +optional
	// +listType=atomic
	Addresses []string `json:"addresses,omitempty"`
}

// DeviceStatus is what the server knows about a device.
type DeviceStatus struct {
	// observedGeneration is the metadata.generation that this status describes, and -1
	// until the server has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are set by the server (Ready, Reconciling, Stalled, Connected,
	// CloneSuspected, AgentOutdated, ScoresRendered) or reported by the device (PodmanReady, DiskPressure,
	// ManifestHeld, SetupComplete, SubordinateIDsReady, LingerEnabled,
	// CgroupDelegated, LayersShared, ClockCorrect, CertificateCurrent,
	// WouldSurviveReboot, GroupsCurrent, ScoresAllowed). Reported
	// conditions become Unknown when the server no longer hears from the device.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// lastSeen is when the server last heard from the device. The server writes it
	// when the device connects or disconnects, not at each heartbeat.
	// +optional
	LastSeen *metav1.Time `json:"lastSeen,omitempty"`
	// certificateExpires is when the certificate expires that the device last
	// connected with. A device renews its certificate once half of its lifetime has
	// passed.
	// +optional
	CertificateExpires *metav1.Time `json:"certificateExpires,omitempty"`
	// capabilities lists what the agent can do, as the agent reported when it last
	// connected. It is absent for agents of version 0.1.0, which do not report it.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Capabilities []string `json:"capabilities,omitempty"`
	// nonce lets the server tell a device from a copy of it.
	// +optional
	Nonce *DeviceNonce `json:"nonce,omitempty"`
	// session is the session that last proved that it is the device. After a restart of
	// the server, floods of other sessions do not keep it out.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{12}$`
	Session string `json:"session,omitempty"`
	// claimants are the sessions that claim to be the device while condition
	// CloneSuspected is True: first the session that the server treats as the device,
	// then the quarantined sessions.
	// +optional
	// +listType=map
	// +listMapKey=session
	// +kubebuilder:validation:MaxItems=16
	Claimants []DeviceClaimant `json:"claimants,omitempty"`
	// accepted is the session of the claimant that the operator accepted as the
	// device. `fleet-server device accept` writes it; the server removes it once that
	// session is the current one.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{12}$`
	Accepted string `json:"accepted,omitempty"`
}

// DeviceClaimant is a run of an agent that claims to be a device.
type DeviceClaimant struct {
	// session identifies the run. It changes when the agent restarts.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{12}$`
	Session string `json:"session"`
	// current is true for the session that the server treats as the device. The other
	// sessions get nothing new.
	// +optional
	Current bool `json:"current,omitempty"`
	// keyFingerprint is the SHA-256 of the public key that the claimant connected
	// with, in hex. A copy of the device's disk has the same key.
	// +optional
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// hardwareID is what `fleet-agent hardware-id` prints on the machine. The machine
	// claims it without proof.
	// +optional
	HardwareID string `json:"hardwareID,omitempty"`
	// address is the IP:PORT that the claimant last connected from.
	// +optional
	Address string `json:"address,omitempty"`
}

// DeviceNonce holds hashes (SHA-256 in hex) of the nonces that the server issued to
// the device.
type DeviceNonce struct {
	// shown is the hash of the nonce that the device last presented. From then on, any
	// older nonce indicates a copy.
	// +optional
	Shown string `json:"shown,omitempty"`
	// issued holds the hashes of the nonces that the server issued since. The device
	// may lose power before it stores one of them, so the shown nonce remains valid
	// until the device presents one of these.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	Issued []string `json:"issued,omitempty"`
	// epoch is the epoch of manifests that the nonces belong to. In another epoch, as
	// after a restore, the server ignores them.
	Epoch string `json:"epoch"`
	// issuedAt is when the server issued the newest nonce.
	IssuedAt metav1.Time `json:"issuedAt"`
}

// DeviceEnrollment records how a device enrolled.
type DeviceEnrollment struct {
	// keyFingerprint is the SHA-256 of the public key that the device may
	// connect with, in hex.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	KeyFingerprint string `json:"keyFingerprint"`
	// nextKeyFingerprint is the fingerprint of the key that the device made to renew
	// its certificate. Both keys are valid until the server has accepted a snapshot
	// request from the device over a connection with the next key.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	NextKeyFingerprint string `json:"nextKeyFingerprint,omitempty"`
	// hardwareID is the hardware id that the machine claimed when it enrolled.
	// +optional
	HardwareID string `json:"hardwareID,omitempty"`
	// token is the name of the EnrollmentToken that the device enrolled with.
	// +optional
	Token string `json:"token,omitempty"`
	// tokenUse is the number of this use of the token: the first use has number 1.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TokenUse int `json:"tokenUse,omitempty"`
	// allowedLabelKeys lists the label keys that the device may set for itself without
	// the prefix device.fleet.nationtech.io/.
	// +optional
	// +listType=set
	AllowedLabelKeys []string `json:"allowedLabelKeys,omitempty"`
	// enrolledAt is when the server issued the device's first certificate.
	// +optional
	EnrolledAt *metav1.Time `json:"enrolledAt,omitempty"`
}
