package rolloutspec

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"fleet.nationtech.io/fleet/pkg/rollout"
)

// Strategy is Immediate or Batched.
type Strategy string

// Values of Strategy.
const (
	Immediate Strategy = "Immediate"
	Batched   Strategy = "Batched"
)

// Rollout says how a change reaches the devices.
type Rollout struct {
	// strategy is Immediate: every matched device is told at once; or Batched: the devices
	// are changed a few at a time. All other fields need Batched.
	Strategy Strategy `json:"strategy,omitempty"`
	// batches are changed one after the other. Devices that none of them takes form the last.
	Batches []Batch `json:"batches,omitempty"`
	// canary is short for a first batch of so many devices that waits for approval.
	Canary int32 `json:"canary,omitempty"`
	// maxUnavailable is how many devices may be in change, or not ready for this Deployment, at
	// a time: a number or a percentage of all its devices, rounded down, and at least one. The
	// default is 10%.
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
	// groupBy are keys of labels. Of the devices that have the same values, such as those of
	// one store, one is changed at a time.
	GroupBy []string `json:"groupBy,omitempty"`
	// minReadySeconds is for how long a device must be connected and ready until it counts as
	// succeeded. The default is 10.
	MinReadySeconds *int32 `json:"minReadySeconds,omitempty"`
	// progressDeadlineSeconds is how long a device may take from when it is given a change.
	// After that it is late, which counts as failed. The default is 600.
	ProgressDeadlineSeconds *int32 `json:"progressDeadlineSeconds,omitempty"`
	// onFailure says what follows when too many devices fail. Pause, the default, stops until
	// they are well; Rollback takes all back to the last score that was rolled out; Continue
	// goes on.
	OnFailure rollout.Action `json:"onFailure,omitempty"`
	// failureThreshold is how many devices may fail: a number, or a percentage of the devices
	// that were given the change, rounded down. By default the successThreshold of each batch
	// decides.
	FailureThreshold *intstr.IntOrString `json:"failureThreshold,omitempty"`
	// paused: no device is changed.
	Paused bool `json:"paused,omitempty"`
	// approvedBatch is the number of the last batch that is approved, counted from 1; canary
	// is the first.
	ApprovedBatch int32 `json:"approvedBatch,omitempty"`
	// windows are when devices may be changed. What was begun when one closes is finished.
	Windows []Window `json:"windows,omitempty"`
	// timeZoneFrom says where the time zone of a device stands, for windows with deviceTime.
	TimeZoneFrom *TimeZoneSource `json:"timeZoneFrom,omitempty"`
	// removal is Immediate, the default: devices that are no longer matched stop at once; or
	// Budgeted: they stop within maxUnavailable.
	Removal rollout.Removal `json:"removal,omitempty"`
	// maxRemoval is off how many of its devices a change may take the Deployment: a number, or
	// a percentage of the devices that have it, rounded down. Beyond that it waits until
	// approvedRemoval is as large. The default is 100%.
	MaxRemoval *intstr.IntOrString `json:"maxRemoval,omitempty"`
	// approvedRemoval is off how many devices the Deployment may be taken in spite of
	// maxRemoval.
	ApprovedRemoval int32 `json:"approvedRemoval,omitempty"`
}

// Batch is a number of devices that is changed before those that follow.
type Batch struct {
	// selector selects devices by their labels. The default is all.
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// limit is how many devices the batch takes: a number, or a percentage of all devices of
	// the Deployment, rounded up. The default is all that it selects.
	Limit *intstr.IntOrString `json:"limit,omitempty"`
	// successThreshold is the percentage of the devices reached that have to succeed. The
	// default is 100%.
	SuccessThreshold *intstr.IntOrString `json:"successThreshold,omitempty"`
	// pause is what the next batch waits for after this one is done.
	Pause *BatchPause `json:"pause,omitempty"`
}

// BatchPause has one of its fields.
type BatchPause struct {
	// approval: until approvedBatch is the number of the batch, or more.
	Approval bool `json:"approval,omitempty"`
	// duration is a span of time, such as 30m or 24h.
	Duration *metav1.Duration `json:"duration,omitempty"`
}

// Window is when devices may be changed.
type Window struct {
	// cron is when it opens: minute, hour, day of the month, month and day of the week, such as
	// "0 2 * * 6".
	Cron string `json:"cron"`
	// duration is for how long it is open, such as 4h.
	Duration metav1.Duration `json:"duration"`
	// timeZone is a name of the IANA database, such as Europe/Zurich. The default is UTC.
	TimeZone string `json:"timeZone,omitempty"`
	// deviceTime: the window opens by the clock of each device; timeZone is for devices whose
	// time zone nobody said.
	DeviceTime bool `json:"deviceTime,omitempty"`
}

// TimeZoneSource has one of its fields.
type TimeZoneSource struct {
	// label is the key of a label. Values of labels have no '/': write Europe.Zurich.
	Label string `json:"label,omitempty"`
	// annotation is the key of an annotation, with a value such as Europe/Zurich.
	Annotation string `json:"annotation,omitempty"`
}
