package rolloutspec

import (
	"errors"
	"fmt"
	"slices"
	"time"

	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"fleet.nationtech.io/fleet/pkg/rollout"
	"fleet.nationtech.io/fleet/pkg/score"
)

const (
	maxGroupKeys, maxWindows = 8, 32
	// maxSpan bounds what is said as a duration.
	maxSpan = 366 * 24 * time.Hour
	maxSecs = int32(maxSpan / time.Second)
)

// Validate returns what is wrong with a rollout, with the path of each field below at: what
// could never go on is refused rather than waited for.
func (r *Rollout) Validate(at *field.Path) (found field.ErrorList) {
	switch r.Strategy {
	case Immediate, "":
		return r.refuseGiven(at)
	case Batched:
	default:
		return field.ErrorList{field.NotSupported(at.Child("strategy"), r.Strategy, []Strategy{Immediate, Batched})}
	}
	found = append(found, r.validateBatches(at)...)
	found = append(found, validateAmount(at.Child("maxUnavailable"), r.MaxUnavailable, 1)...)
	found = append(found, validateAmount(at.Child("failureThreshold"), r.FailureThreshold, 0)...)
	found = append(found, validateAmount(at.Child("maxRemoval"), r.MaxRemoval, 0)...)
	found = append(found, validateKeys(at.Child("groupBy"), r.GroupBy)...)
	found = append(found, r.validateTimes(at)...)
	found = append(found, r.validateWindows(at)...)
	found = append(found, oneOf(at.Child("onFailure"), r.OnFailure, rollout.Pause, rollout.Rollback, rollout.Continue)...)
	found = append(found, oneOf(at.Child("removal"), r.Removal, rollout.RemoveImmediately, rollout.RemoveWithinBudget)...)
	found = append(found, atLeast(at.Child("approvedBatch"), r.ApprovedBatch, 0)...)
	found = append(found, atLeast(at.Child("approvedRemoval"), r.ApprovedRemoval, 0)...)
	return found
}

// refuseGiven refuses what strategy Immediate would not heed.
func (r *Rollout) refuseGiven(at *field.Path) (found field.ErrorList) {
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"batches", len(r.Batches) > 0},
		{"canary", r.Canary != 0},
		{"maxUnavailable", r.MaxUnavailable != nil},
		{"groupBy", len(r.GroupBy) > 0},
		{"minReadySeconds", r.MinReadySeconds != nil},
		{"progressDeadlineSeconds", r.ProgressDeadlineSeconds != nil},
		{"onFailure", r.OnFailure != ""},
		{"failureThreshold", r.FailureThreshold != nil},
		{"paused", r.Paused},
		{"approvedBatch", r.ApprovedBatch != 0},
		{"windows", len(r.Windows) > 0},
		{"timeZoneFrom", r.TimeZoneFrom != nil},
		{"removal", r.Removal != ""},
		{"maxRemoval", r.MaxRemoval != nil},
		{"approvedRemoval", r.ApprovedRemoval != 0},
	} {
		if f.given {
			found = append(found, field.Forbidden(at.Child(f.name), "set strategy: Batched for it"))
		}
	}
	return found
}

func (r *Rollout) validateBatches(at *field.Path) (found field.ErrorList) {
	found = atLeast(at.Child("canary"), r.Canary, 0)
	most := rollout.MaxBatches
	if r.Canary > 0 {
		most--
	}
	batches := at.Child("batches")
	if len(r.Batches) > most {
		return append(found, field.TooMany(batches, len(r.Batches), most))
	}
	percent, everything := 0, -1
	for i := range r.Batches {
		b, at := &r.Batches[i], batches.Index(i)
		if everything >= 0 {
			found = append(found, field.Invalid(at, "", fmt.Sprintf("gets no device: batches[%d] has neither selector nor limit and takes all that are left", everything)))
		}
		if b.everything() {
			everything = i
		}
		found = append(found, b.validate(at)...)
		if a := amountOf(b.Limit); a != nil && a.Percent && a.N > 0 && a.N <= 100 {
			if percent += a.N; percent > 100 {
				found = append(found, field.Invalid(at.Child("limit"), b.Limit.String(), fmt.Sprintf("the batches take %d%% of the devices up to here, which is more than all", percent)))
			}
		}
	}
	return found
}

func (b *Batch) validate(at *field.Path) (found field.ErrorList) {
	found = metavalidation.ValidateLabelSelector(b.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))
	found = append(found, validateAmount(at.Child("limit"), b.Limit, 1)...)
	if a := amountOf(b.SuccessThreshold); a != nil && (!a.Percent || a.N < 1 || a.N > 100) {
		found = append(found, field.Invalid(at.Child("successThreshold"), b.SuccessThreshold.String(), "must be a percentage from 1% to 100%"))
	}
	if p := b.Pause; p != nil {
		switch at := at.Child("pause"); {
		case p.Approval == (p.Duration != nil):
			found = append(found, field.Invalid(at, "", "must have either approval: true or a duration"))
		case p.Duration != nil:
			found = append(found, validateSpan(at.Child("duration"), p.Duration.Duration)...)
		}
	}
	return found
}

// validateAmount checks a number of devices from least on, or a percentage.
func validateAmount(at *field.Path, v *intstr.IntOrString, least int) field.ErrorList {
	a := amountOf(v)
	switch {
	case a == nil, a.N >= least && (!a.Percent || a.N <= 100):
		return nil
	case a.Percent:
		return field.ErrorList{field.Invalid(at, v.String(), fmt.Sprintf("must be a number from %d on or a percentage from %d%% to 100%%", least, least))}
	}
	return field.ErrorList{field.Invalid(at, v.IntValue(), fmt.Sprintf("must be %d or more, or a percentage such as 10%%", least))}
}

func validateKeys(at *field.Path, keys []string) (found field.ErrorList) {
	if len(keys) > maxGroupKeys {
		return field.ErrorList{field.TooMany(at, len(keys), maxGroupKeys)}
	}
	for i, key := range keys {
		if slices.Contains(keys[:i], key) {
			found = append(found, field.Duplicate(at.Index(i), key))
		}
		found = append(found, validateKey(at.Index(i), key)...)
	}
	return found
}

func validateKey(at *field.Path, key string) (found field.ErrorList) {
	for _, why := range validation.IsQualifiedName(key) {
		found = append(found, field.Invalid(at, key, why))
	}
	return found
}

// validateTimes checks that a device can be ready in time.
func (r *Rollout) validateTimes(at *field.Path) (found field.ErrorList) {
	for _, f := range []struct {
		name  string
		value *int32
		least int32
	}{{"minReadySeconds", r.MinReadySeconds, 0}, {"progressDeadlineSeconds", r.ProgressDeadlineSeconds, 1}} {
		switch {
		case f.value == nil:
		case *f.value < f.least:
			found = append(found, atLeast(at.Child(f.name), *f.value, f.least)...)
		case *f.value > maxSecs:
			found = append(found, field.Invalid(at.Child(f.name), *f.value, fmt.Sprintf("must be at most %d, which is a year", maxSecs)))
		}
	}
	if s := r.Spec(); len(found) == 0 && s.Deadline <= s.MinReady {
		found = append(found, field.Invalid(at.Child("progressDeadlineSeconds"), int(s.Deadline/time.Second),
			fmt.Sprintf("must be more than minReadySeconds, which is %d: every device would be late", int(s.MinReady/time.Second))))
	}
	return found
}

func (r *Rollout) validateWindows(at *field.Path) (found field.ErrorList) {
	windows := at.Child("windows")
	if len(r.Windows) > maxWindows {
		return field.ErrorList{field.TooMany(windows, len(r.Windows), maxWindows)}
	}
	byDevice := false
	for i := range r.Windows {
		found = append(found, r.Windows[i].validate(windows.Index(i))...)
		byDevice = byDevice || r.Windows[i].DeviceTime
	}
	from := at.Child("timeZoneFrom")
	switch s := r.TimeZoneFrom; {
	case s == nil && byDevice:
		found = append(found, field.Required(from, "a window has deviceTime: say which label or annotation of a device has its time zone"))
	case s == nil:
	case !byDevice:
		found = append(found, field.Forbidden(from, "no window has deviceTime"))
	case (s.Label == "") == (s.Annotation == ""):
		found = append(found, field.Invalid(from, "", "must have either label or annotation"))
	case s.Label != "":
		found = append(found, validateKey(from.Child("label"), s.Label)...)
	default:
		found = append(found, validateKey(from.Child("annotation"), s.Annotation)...)
	}
	return found
}

// someTime is where the search for an opening begins that shows that there is one.
var someTime = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *Window) validate(at *field.Path) (found field.ErrorList) {
	found = validateSpan(at.Child("duration"), w.Duration.Duration)
	times, err := (&score.Schedule{Cron: w.Cron, TimeZone: w.TimeZone}).Times()
	if wrong := (*score.FieldError)(nil); errors.As(err, &wrong) {
		value := w.Cron
		if wrong.Field == "timeZone" {
			value = w.TimeZone
		}
		return append(found, field.Invalid(at.Child(wrong.Field), value, wrong.Message))
	}
	if times.Next(someTime).IsZero() {
		found = append(found, field.Invalid(at.Child("cron"), w.Cron, "never comes, so that the window would never open"))
	}
	return found
}

func validateSpan(at *field.Path, d time.Duration) field.ErrorList {
	if d < time.Minute || d > maxSpan {
		return field.ErrorList{field.Invalid(at, d.String(), "must be from 1m to a year")}
	}
	return nil
}

func atLeast(at *field.Path, value, least int32) field.ErrorList {
	if value < least {
		return field.ErrorList{field.Invalid(at, value, fmt.Sprintf("must be %d or more", least))}
	}
	return nil
}

// oneOf checks a text that may be absent.
func oneOf[T ~string](at *field.Path, value T, of ...T) field.ErrorList {
	if value == "" || slices.Contains(of, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, of)}
}
