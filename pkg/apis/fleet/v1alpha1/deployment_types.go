package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Deployment runs a score on every device that its selector matches.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fleetdep,categories={fleet,all}
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.score.type`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Matched",type=integer,JSONPath=`.status.aggregate.matchedDeviceCount`
// +kubebuilder:printcolumn:name="Succeeded",type=integer,JSONPath=`.status.aggregate.succeeded`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.aggregate.failed`
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.aggregate.pending`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.conditions[?(@.type=="Stalled")].message`
// +kubebuilder:printcolumn:name="Last Error",type=string,priority=1,JSONPath=`.status.aggregate.lastError.message`
// +kubebuilder:printcolumn:name="Progress",type=string,priority=1,JSONPath=`.status.aggregate.progress.message`
// +kubebuilder:printcolumn:name="Acceptance",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') && size(self.metadata.name) <= 63",message="metadata.name must be at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit: it is part of container names and bus keys"
type Deployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what to run and where.
	Spec DeploymentSpec `json:"spec"`
	// status summarizes what the devices report. The server writes it.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status DeploymentStatus `json:"status,omitempty"`
}

// DeploymentList is a list of Deployments.
//
// +kubebuilder:object:root=true
type DeploymentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Deployment `json:"items"`
}

// DeploymentSpec says what to run and where.
type DeploymentSpec struct {
	// targetSelector selects devices by their labels, with matchLabels and
	// matchExpressions. An empty selector ({}) matches every device that may be
	// targeted from this namespace.
	TargetSelector metav1.LabelSelector `json:"targetSelector"`
	// score is what each matched device runs.
	Score Score `json:"score"`
	// rollout says how a change reaches the devices.
	// +optional
	Rollout *Rollout `json:"rollout,omitempty"`
	// volumeRetention says what happens to the named volumes when a device stops
	// running the Deployment: Retain keeps them, Delete deletes them together with the
	// containers. A device acts on the last value that it received.
	// +optional
	// +kubebuilder:default=Retain
	VolumeRetention VolumeRetention `json:"volumeRetention,omitempty"`
	// revisionHistoryLimit is how many earlier scores the server keeps, as
	// ControllerRevisions. A score that a device still runs is kept in any case.
	// +optional
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	RevisionHistoryLimit *int32 `json:"revisionHistoryLimit,omitempty"`
}

// VolumeRetention is Retain or Delete.
//
// +kubebuilder:validation:Enum=Retain;Delete
type VolumeRetention string

// Values of VolumeRetention.
const (
	VolumeRetentionRetain VolumeRetention = "Retain"
	VolumeRetentionDelete VolumeRetention = "Delete"
)

// Score describes a workload in the format that its type defines.
type Score struct {
	// type names the format of data, for example PodmanV0. The device needs a driver
	// for it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z_][A-Za-z0-9_]*$')",message="score.type must begin with a letter or '_' and have only letters, digits and '_', for example PodmanV0"
	Type string `json:"type"`
	// data is the workload, in the format of type, at most 256 KiB. The fields of PodmanV0
	// are services, initContainers, network, imagePullSecrets and minReadySeconds, that of
	// FilesV0 is files; "fleet-server explain PodmanV0.services" prints those of a service, and
	// so on. The server rejects a field that the type does not define.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Data runtime.RawExtension `json:"data"`
}

// Rollout says how a change reaches the devices.
type Rollout struct {
	// strategy is Immediate: the server notifies every matched device at once.
	// +optional
	// +kubebuilder:default=Immediate
	// +kubebuilder:validation:Enum=Immediate
	Strategy string `json:"strategy,omitempty"`
}

// DeploymentStatus summarizes what the devices report.
type DeploymentStatus struct {
	// observedGeneration is the metadata.generation that this status describes, and -1
	// until the server has seen the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions are Accepted (the score is valid), Progressing (some matched devices
	// have not yet reported the current score) and Available (every matched device
	// runs the current score); and those that Helm, Flux and Argo CD understand: Ready,
	// and Reconciling (some matched devices do not run the current score yet) or
	// Stalled (the score was refused, or devices failed).
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
	// aggregate counts the matched devices by what they report.
	// +optional
	Aggregate *Aggregate `json:"aggregate,omitempty"`
}

// Aggregate counts devices. Succeeded, failed and pending always add up to
// matchedDeviceCount.
type Aggregate struct {
	// matchedDeviceCount is the number of devices that the selector matches.
	MatchedDeviceCount int `json:"matchedDeviceCount"`
	// succeeded is the number of matched devices that run the current score.
	Succeeded int `json:"succeeded"`
	// failed is the number of matched devices that tried to run the current score and
	// failed.
	Failed int `json:"failed"`
	// pending is the number of matched devices that have not reported on the current
	// score.
	Pending int `json:"pending"`
	// offline is the number of matched devices that the server does not hear from.
	// Each of them also counts as succeeded, failed or pending.
	// +optional
	Offline int `json:"offline,omitempty"`
	// outdated is the number of matched devices whose agent is too old for the score:
	// see condition AgentOutdated of the Devices. They keep running the previous score
	// and count as pending.
	// +optional
	Outdated int `json:"outdated,omitempty"`
	// lastError is the newest failure among the matched devices. While the score is not
	// accepted, it is why, and names no device.
	// +optional
	LastError *DeviceError `json:"lastError,omitempty"`
	// progress is what one of the devices is fetching, such as an image, when that takes
	// more than ten seconds. While several do, it is that of one until it is done.
	// +optional
	Progress *DeviceProgress `json:"progress,omitempty"`
}

// DeviceProgress is what a device is fetching.
type DeviceProgress struct {
	// device is the name of the Device.
	Device string `json:"device"`
	// message says for which service, and how far it is: "pulling web: 34 of 120 MB".
	Message string `json:"message"`
}

// DeviceError is a failure on one device, or why a score is not accepted.
type DeviceError struct {
	// device is the name of the Device. It is absent while the score is not accepted.
	// +optional
	Device string `json:"device,omitempty"`
	// message is the error that the device reports, usually podman's message; or reason
	// and message of condition Accepted.
	Message string `json:"message"`
	// time is when the failure happened, by the device's clock.
	// +optional
	Time *metav1.Time `json:"time,omitempty"`
}
