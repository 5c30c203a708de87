package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EnrollmentToken lets devices enroll. It holds the hash of the token's
// secret; the secret itself is shown once, by `fleet-server token create`.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fleettoken,categories=fleet
// +kubebuilder:printcolumn:name="Uses",type=integer,JSONPath=`.status.uses`
// +kubebuilder:printcolumn:name="Max",type=integer,JSONPath=`.spec.maxUses`
// +kubebuilder:printcolumn:name="Pre-Approved",type=boolean,JSONPath=`.spec.preApproved`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expiresAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="metadata.name must be at most 63 lower-case letters, digits and '-': it is part of the token"
type EnrollmentToken struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says who may enroll and what such a device becomes.
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

// EnrollmentTokenSpec says who may enroll and what such a device becomes.
type EnrollmentTokenSpec struct {
	// secretHash is the SHA-256 of the token's secret, in hex.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	SecretHash string `json:"secretHash"`
	// expiresAt is when the token stops working.
	ExpiresAt metav1.Time `json:"expiresAt"`
	// maxUses is how many devices may enroll with it.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxUses int `json:"maxUses,omitempty"`
	// preApproved lets devices in at once. Otherwise an EnrollmentRequest waits
	// for an operator.
	// +optional
	PreApproved bool `json:"preApproved,omitempty"`
	// labels are put on each Device that enrolls with the token.
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	Labels map[string]string `json:"labels,omitempty"`
	// allowedLabelKeys are plain label keys that such a device may set for
	// itself, from its agent.yaml.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	AllowedLabelKeys []string `json:"allowedLabelKeys,omitempty"`
}

// EnrollmentTokenStatus counts the uses of a token.
type EnrollmentTokenStatus struct {
	// uses is how many devices enrolled with the token.
	// +optional
	Uses int `json:"uses,omitempty"`
	// devices are the fingerprints of the keys that used it, so that a device
	// that asks twice is counted once. The newest 1000 are kept.
	// +optional
	// +listType=atomic
	Devices []string `json:"devices,omitempty"`
}

// EnrollmentRequest is a device that wants to be let in. Approve it with
// `fleet-server device approve NAME`.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=fleetreq,categories=fleet
// +kubebuilder:printcolumn:name="Hostname",type=string,JSONPath=`.spec.inventory.hostname`
// +kubebuilder:printcolumn:name="Token",type=string,JSONPath=`.spec.token`
// +kubebuilder:printcolumn:name="Approved",type=string,JSONPath=`.status.conditions[?(@.type=="Approved")].status`
// +kubebuilder:printcolumn:name="Denied",type=string,JSONPath=`.status.conditions[?(@.type=="Denied")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Fingerprint",type=string,priority=1,JSONPath=`.spec.keyFingerprint`
type EnrollmentRequest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what the device claims. The name of the request is the device id
	// that it asks for.
	Spec EnrollmentRequestSpec `json:"spec"`
	// status holds the operator's decision.
	// +optional
	Status EnrollmentRequestStatus `json:"status,omitempty"`
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
	// keyFingerprint is the SHA-256 of the device's public key, in hex. Compare
	// it with what the device shows before you approve.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	KeyFingerprint string `json:"keyFingerprint"`
	// token is the EnrollmentToken that the device came with.
	Token string `json:"token"`
	// inventory holds facts that the device claims.
	// +optional
	Inventory *Inventory `json:"inventory,omitempty"`
}

// EnrollmentRequestStatus holds the operator's decision.
type EnrollmentRequestStatus struct {
	// conditions are Approved and Denied.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
