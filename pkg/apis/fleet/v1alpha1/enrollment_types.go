package v1alpha1

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EnrollmentToken lets devices enroll. It holds the hash of the token's
// secret; the secret itself is shown once, by `fleet-server token create`.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fleettoken,categories=fleet
// +kubebuilder:printcolumn:name="Uses",type=integer,JSONPath=`.status.uses`
// +kubebuilder:printcolumn:name="Max",type=integer,JSONPath=`.spec.maxUses`
// +kubebuilder:printcolumn:name="Pre-Approved",type=boolean,JSONPath=`.spec.preApproved`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expiresAt`
// +kubebuilder:printcolumn:name="Usable",type=string,JSONPath=`.status.conditions[?(@.type=="Usable")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Replaces",type=string,priority=1,JSONPath=`.spec.replaces`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="metadata.name must be at most 63 lower-case letters, digits and '-': it is part of the token"
type EnrollmentToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which devices may enroll with the token and how they are set up.
	Spec EnrollmentTokenSpec `json:"spec"`
	// status counts the uses.
	// +optional
	Status EnrollmentTokenStatus `json:"status,omitempty"`
}

// EnrollmentTokenList is a list of EnrollmentTokens.
//
// +kubebuilder:object:root=true
type EnrollmentTokenList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []EnrollmentToken `json:"items"`
}

// EnrollmentTokenSpec says which devices may enroll with a token and how they are set
// up.
type EnrollmentTokenSpec struct {
	// secretHash is the SHA-256 of the token's secret, in hex.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SecretHash string `json:"secretHash"`
	// expiresAt is when the token stops working, by default 24 hours after its
	// creation. The server deletes the token a week after that.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// maxUses is the number of devices that may enroll with the token.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxUses int `json:"maxUses,omitempty"`
	// preApproved lets devices enroll without approval. Otherwise an EnrollmentRequest
	// waits for an operator.
	// +optional
	PreApproved bool `json:"preApproved,omitempty"`
	// labels are set on each Device that enrolls with the token.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['kubernetes.io/arch', 'kubernetes.io/os', 'fleet.nationtech.io/device-id', 'device-id']) && !k.startsWith('device.fleet.nationtech.io/'))",message="the server sets kubernetes.io/arch, kubernetes.io/os, fleet.nationtech.io/device-id, device-id and what begins with device.fleet.nationtech.io/ itself: leave them out"
	Labels map[string]string `json:"labels,omitempty"`
	// allowedLabelKeys lists the label keys that such a device may set for itself in
	// its agent.yaml, without the prefix device.fleet.nationtech.io/.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['kubernetes.io/arch', 'kubernetes.io/os', 'fleet.nationtech.io/device-id', 'device-id']) && !k.startsWith('device.fleet.nationtech.io/'))",message="the server sets kubernetes.io/arch, kubernetes.io/os, fleet.nationtech.io/device-id, device-id and what begins with device.fleet.nationtech.io/ itself: leave them out"
	AllowedLabelKeys []string `json:"allowedLabelKeys,omitempty"`
	// hardwareIDs, when set, lists the machines that may use the token, by the
	// hardware id that `fleet-agent hardware-id` prints on them. A machine claims its
	// id without proof: the list guards against mistakes, not against thieves.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=10000
	HardwareIDs []string `json:"hardwareIDs,omitempty"`
	// replaces names the Device whose place a new machine takes. The new machine gets
	// the Device's name, labels and workloads, and the server refuses the key of the
	// old machine from then on.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Replaces string `json:"replaces,omitempty"`
}

// DefaultTokenTTL is the lifetime of a token without expiresAt.
const DefaultTokenTTL = 24 * time.Hour

// Expiry returns when the token stops working.
func (t *EnrollmentToken) Expiry() time.Time {
	if t.Spec.ExpiresAt != nil {
		return t.Spec.ExpiresAt.Time
	}
	return t.CreationTimestamp.Add(DefaultTokenTTL)
}

// EnrollmentTokenStatus counts the uses of a token.
type EnrollmentTokenStatus struct {
	// uses is the number of uses of the token. One key that requests one name is one
	// use. The server counts a use at once, and writes the number here soon after.
	// +optional
	Uses int `json:"uses,omitempty"`
	// expiresAt is when the token stops working.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// lastUsedAt is when a device last enrolled with the token.
	// +optional
	LastUsedAt *metav1.Time `json:"lastUsedAt,omitempty"`
	// conditions holds the condition Usable.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// EnrollmentRequest is the request of a device to enroll. Approve it with
// `fleet-server device approve NAME`.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fleetreq,categories=fleet
// +kubebuilder:printcolumn:name="Hostname",type=string,JSONPath=`.spec.inventory.hostname`
// +kubebuilder:printcolumn:name="Token",type=string,JSONPath=`.spec.token`
// +kubebuilder:printcolumn:name="Pending",type=string,JSONPath=`.status.conditions[?(@.type=="Pending")].status`
// +kubebuilder:printcolumn:name="Approved",type=string,JSONPath=`.status.conditions[?(@.type=="Approved")].status`
// +kubebuilder:printcolumn:name="Denied",type=string,JSONPath=`.status.conditions[?(@.type=="Denied")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Address",type=string,priority=1,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Fingerprint",type=string,priority=1,JSONPath=`.spec.keyFingerprint`
// +kubebuilder:validation:XValidation:rule="!has(self.status) || !has(self.status.conditions) || !self.status.conditions.exists(c, c.type == 'Approved' && c.status == 'True') || has(self.status.approvedKeyFingerprint) && self.status.approvedKeyFingerprint == self.spec.keyFingerprint",message="an approval names the key that it is for: compare spec.keyFingerprint with what the device shows, and set status.approvedKeyFingerprint to it together with condition Approved, or use fleet-server device approve"
type EnrollmentRequest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the device claims. The name of the request is the device id that
	// the device requests.
	Spec EnrollmentRequestSpec `json:"spec"`
	// status holds the operator's decision.
	// +optional
	Status EnrollmentRequestStatus `json:"status,omitempty"`
}

// IsDenied reports whether an operator refused the device.
func (r *EnrollmentRequest) IsDenied() bool {
	return meta.IsStatusConditionTrue(r.Status.Conditions, RequestDenied)
}

// IsApproved reports whether an operator approved the key of the request and has not
// denied it since.
func (r *EnrollmentRequest) IsApproved() bool {
	return meta.IsStatusConditionTrue(r.Status.Conditions, RequestApproved) &&
		r.Status.ApprovedKeyFingerprint == r.Spec.KeyFingerprint && !r.IsDenied()
}

// EnrollmentRequestList is a list of EnrollmentRequests.
//
// +kubebuilder:object:root=true
type EnrollmentRequestList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []EnrollmentRequest `json:"items"`
}

// EnrollmentRequestSpec is what a device claims.
type EnrollmentRequestSpec struct {
	// keyFingerprint is the SHA-256 of the device's public key, in hex. `fleet-agent
	// enroll` and `fleet-agent fingerprint` show its first half on the device: compare
	// the two before you approve. It cannot be changed.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the key of a request cannot be changed: another device asks with a request of its own"
	KeyFingerprint string `json:"keyFingerprint"`
	// csr is the device's certificate request in PEM. It is absent when the device has
	// a certificate of this server but no Device object, as after the restore of an
	// older backup.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	CSR string `json:"csr,omitempty"`
	// token is the name of the EnrollmentToken that the device used.
	// +optional
	Token string `json:"token,omitempty"`
	// tokenUse is the number of this use of the token: the first use has number 1.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TokenUse int `json:"tokenUse,omitempty"`
	// labels are set on the Device when the request is approved. They come from the
	// token; change them before you approve.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['kubernetes.io/arch', 'kubernetes.io/os', 'fleet.nationtech.io/device-id', 'device-id']) && !k.startsWith('device.fleet.nationtech.io/'))",message="the server sets kubernetes.io/arch, kubernetes.io/os, fleet.nationtech.io/device-id, device-id and what begins with device.fleet.nationtech.io/ itself: leave them out"
	Labels map[string]string `json:"labels,omitempty"`
	// allowedLabelKeys lists the label keys that the device may set for itself without
	// the prefix device.fleet.nationtech.io/.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['kubernetes.io/arch', 'kubernetes.io/os', 'fleet.nationtech.io/device-id', 'device-id']) && !k.startsWith('device.fleet.nationtech.io/'))",message="the server sets kubernetes.io/arch, kubernetes.io/os, fleet.nationtech.io/device-id, device-id and what begins with device.fleet.nationtech.io/ itself: leave them out"
	AllowedLabelKeys []string `json:"allowedLabelKeys,omitempty"`
	// replaces says that a new machine takes the place of the Device of this name.
	// +optional
	Replaces bool `json:"replaces,omitempty"`
	// hardwareID is the hardware id that the machine claims.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	HardwareID string `json:"hardwareID,omitempty"`
	// address is the network address that the request came from.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Address string `json:"address,omitempty"`
	// inventory holds facts that the device claims.
	// +optional
	Inventory *Inventory `json:"inventory,omitempty"`
}

// EnrollmentRequestStatus holds the operator's decision.
type EnrollmentRequestStatus struct {
	// approvedKeyFingerprint is the spec.keyFingerprint that the operator saw. An
	// approval is valid for that key only: whoever sets condition Approved to True
	// must also set this field.
	// +optional
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	ApprovedKeyFingerprint string `json:"approvedKeyFingerprint,omitempty"`
	// conditions are Pending, Approved and Denied.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
