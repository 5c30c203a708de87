package rolloutspec

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/rollout"
)

// Spec returns what a rollout in batches does. r is valid, and its strategy is Batched.
func (r *Rollout) Spec() rollout.Spec {
	s := rollout.Default()
	if r.Canary > 0 {
		s.Batches = append(s.Batches, rollout.Batch{Limit: &rollout.Amount{N: int(r.Canary)}, Approval: true})
	}
	for i := range r.Batches {
		s.Batches = append(s.Batches, r.Batches[i].spec())
	}
	if r.MaxUnavailable != nil {
		s.MaxUnavailable = *amountOf(r.MaxUnavailable)
	}
	if r.MinReadySeconds != nil {
		s.MinReady = time.Duration(*r.MinReadySeconds) * time.Second
	}
	if r.ProgressDeadlineSeconds != nil {
		s.Deadline = time.Duration(*r.ProgressDeadlineSeconds) * time.Second
	}
	if r.OnFailure != "" {
		s.OnFailure = r.OnFailure
	}
	if r.Removal != "" {
		s.Removal = r.Removal
	}
	for _, w := range r.Windows {
		s.Windows = append(s.Windows, rollout.Window{Cron: w.Cron, TimeZone: w.TimeZone, OfDevice: w.DeviceTime, Duration: w.Duration.Duration})
	}
	s.GroupBy, s.Paused, s.ApprovedBatch, s.ApprovedRemoval = r.GroupBy, r.Paused, int(r.ApprovedBatch), int(r.ApprovedRemoval)
	s.FailureThreshold, s.MaxRemoval = amountOf(r.FailureThreshold), amountOf(r.MaxRemoval)
	return s
}

func (b *Batch) spec() rollout.Batch {
	s := rollout.Batch{Limit: amountOf(b.Limit), Selector: selectorOf(b.Selector)}
	if b.SuccessThreshold != nil {
		s.Tolerance = 100 - amountOf(b.SuccessThreshold).N
	}
	if p := b.Pause; p != nil {
		s.Approval = p.Approval
		if p.Duration != nil {
			s.Pause = p.Duration.Duration
		}
	}
	return s
}

// everything reports whether the batch takes all devices that are left.
func (b *Batch) everything() bool {
	return b.Limit == nil && len(selectorOf(b.Selector).Requirements) == 0
}

var operators = map[metav1.LabelSelectorOperator]assignment.Operator{
	metav1.LabelSelectorOpIn: assignment.In, metav1.LabelSelectorOpNotIn: assignment.NotIn,
	metav1.LabelSelectorOpExists: assignment.Exists, metav1.LabelSelectorOpDoesNotExist: assignment.DoesNotExist,
}

func selectorOf(s *metav1.LabelSelector) (selector assignment.Selector) {
	if s == nil {
		return selector
	}
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		selector.Requirements = append(selector.Requirements, assignment.Requirement{Key: key, Operator: assignment.In, Values: []string{s.MatchLabels[key]}})
	}
	for _, e := range s.MatchExpressions {
		selector.Requirements = append(selector.Requirements, assignment.Requirement{Key: e.Key, Operator: operators[e.Operator], Values: e.Values})
	}
	return selector
}

// amountOf returns a number, or a percentage as "10%"; nil for nil. What is neither is -1.
func amountOf(v *intstr.IntOrString) *rollout.Amount {
	if v == nil {
		return nil
	}
	if v.Type == intstr.Int {
		return &rollout.Amount{N: v.IntValue()}
	}
	digits, percent := strings.CutSuffix(v.StrVal, "%")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || !percent || n > math.MaxInt16 {
		return &rollout.Amount{N: -1, Percent: true}
	}
	return &rollout.Amount{N: int(n), Percent: true}
}

// Of returns the name of the time zone of a device; empty when nobody said it.
func (s *TimeZoneSource) Of(labels, annotations map[string]string) string {
	switch {
	case s == nil:
		return ""
	case s.Label != "":
		return strings.ReplaceAll(labels[s.Label], ".", "/")
	}
	return annotations[s.Annotation]
}
