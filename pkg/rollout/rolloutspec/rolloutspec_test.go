package rolloutspec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/rollout"
	"fleet.nationtech.io/fleet/pkg/rollout/rolloutspec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t testing.TB, text string) (r rolloutspec.Rollout) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &r); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return r
}

func validate(r *rolloutspec.Rollout) string {
	var lines []string
	for _, err := range r.Validate(field.NewPath("spec", "rollout")) {
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

const full = `
strategy: Batched
canary: 3
batches:
- selector: {matchLabels: {ring: early}, matchExpressions: [{key: site, operator: NotIn, values: [lab]}]}
  limit: 10
  successThreshold: 90%
  pause: {duration: 24h}
- limit: 25%
  pause: {approval: true}
maxUnavailable: 5%
groupBy: [store]
minReadySeconds: 60
progressDeadlineSeconds: 1200
onFailure: Rollback
failureThreshold: 2%
paused: true
approvedBatch: 1
windows:
- {cron: "0 2 * * *", duration: 4h, deviceTime: true, timeZone: Europe/Zurich}
timeZoneFrom: {label: time-zone}
removal: Budgeted
maxRemoval: 20%
approvedRemoval: 7
`

func TestSpec(t *testing.T) {
	t.Parallel()
	r := parse(t, full)
	if wrong := validate(&r); wrong != "" {
		t.Fatal(wrong)
	}
	percent := func(n int) *rollout.Amount { return &rollout.Amount{N: n, Percent: true} }
	want := rollout.Spec{
		Batches: []rollout.Batch{
			{Limit: &rollout.Amount{N: 3}, Approval: true},
			{
				Selector: assignment.Selector{Requirements: []assignment.Requirement{
					{Key: "ring", Operator: assignment.In, Values: []string{"early"}}, {Key: "site", Operator: assignment.NotIn, Values: []string{"lab"}},
				}},
				Limit: &rollout.Amount{N: 10}, Tolerance: 10, Pause: 24 * time.Hour,
			},
			{Limit: percent(25), Approval: true},
		},
		MaxUnavailable: *percent(5), GroupBy: []string{"store"}, MinReady: time.Minute, Deadline: 20 * time.Minute,
		OnFailure: rollout.Rollback, FailureThreshold: percent(2), Paused: true, ApprovedBatch: 1,
		Windows: []rollout.Window{{Cron: "0 2 * * *", TimeZone: "Europe/Zurich", OfDevice: true, Duration: 4 * time.Hour}},
		Removal: rollout.RemoveWithinBudget, MaxRemoval: percent(20), ApprovedRemoval: 7,
	}
	if diff := cmp.Diff(want, r.Spec()); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	r = parse(t, "strategy: Batched")
	if diff := cmp.Diff(rollout.Default(), r.Spec()); diff != "" {
		t.Errorf("the default (-want +got):\n%s", diff)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		says string // nothing: it is valid
		text string
	}{
		"nothing said":                   {"", "{}"},
		"immediately":                    {"", "strategy: Immediate"},
		"in batches":                     {"", "strategy: Batched"},
		"another strategy":               {`spec.rollout.strategy: Unsupported value: "Canary": supported values: "Immediate", "Batched"`, "strategy: Canary"},
		"a pause of what is at once":     {"spec.rollout.paused: Forbidden: set strategy: Batched for it", "paused: true"},
		"batches of what is at once":     {"spec.rollout.batches: Forbidden", "batches: [{limit: 3}]"},
		"budget 0":                       {"spec.rollout.maxUnavailable: Invalid value: 0: must be 1 or more", "strategy: Batched\nmaxUnavailable: 0"},
		"budget 0 %":                     {`spec.rollout.maxUnavailable: Invalid value: "0%": must be a number from 1 on or a percentage from 1% to 100%`, "strategy: Batched\nmaxUnavailable: 0%"},
		"budget of more than all":        {`spec.rollout.maxUnavailable: Invalid value: "101%"`, "strategy: Batched\nmaxUnavailable: 101%"},
		"budget without a number":        {`spec.rollout.maxUnavailable: Invalid value: "some"`, "strategy: Batched\nmaxUnavailable: some"},
		"budget with a sign":             {`spec.rollout.maxUnavailable: Invalid value: "+5%"`, "strategy: Batched\nmaxUnavailable: +5%"},
		"all at a time":                  {"", "strategy: Batched\nmaxUnavailable: 100%"},
		"batches of over 100 %":          {`spec.rollout.batches[1].limit: Invalid value: "50%": the batches take 101% of the devices up to here, which is more than all`, "strategy: Batched\nbatches: [{limit: 51%}, {limit: 50%}]"},
		"batches of 100 %":               {"", "strategy: Batched\nbatches: [{limit: 50%}, {limit: 50%}]"},
		"a batch after all":              {"spec.rollout.batches[2]: Invalid value: \"\": gets no device: batches[1] has neither selector nor limit", "strategy: Batched\nbatches: [{limit: 1}, {}, {limit: 5}]"},
		"a batch of none":                {"spec.rollout.batches[0].limit: Invalid value: 0", "strategy: Batched\nbatches: [{limit: 0}]"},
		"a selector":                     {`spec.rollout.batches[0].selector.matchExpressions[0].operator: Invalid value: "Like"`, "strategy: Batched\nbatches: [{selector: {matchExpressions: [{key: a, operator: Like}]}}]"},
		"a threshold":                    {`spec.rollout.batches[0].successThreshold: Invalid value: "9": must be a percentage from 1% to 100%`, "strategy: Batched\nbatches: [{limit: 1, successThreshold: 9}]"},
		"a pause of two kinds":           {"spec.rollout.batches[0].pause: Invalid value: \"\": must have either", "strategy: Batched\nbatches: [{limit: 1, pause: {approval: true, duration: 1h}}]"},
		"a pause of no kind":             {"spec.rollout.batches[0].pause: Invalid value: \"\": must have either", "strategy: Batched\nbatches: [{limit: 1, pause: {}}]"},
		"a pause of nothing":             {`spec.rollout.batches[0].pause.duration: Invalid value: "0s": must be from 1m to a year`, "strategy: Batched\nbatches: [{limit: 1, pause: {duration: 0s}}]"},
		"too many batches":               {"spec.rollout.batches: Too many: 51: must have at most 50 items", "strategy: Batched\nbatches: [" + strings.Repeat("{limit: 1},", 51) + "]"},
		"and a canary":                   {"spec.rollout.batches: Too many: 50: must have at most 49 items", "strategy: Batched\ncanary: 1\nbatches: [" + strings.Repeat("{limit: 1},", 50) + "]"},
		"a negative canary":              {"spec.rollout.canary: Invalid value: -1: must be 0 or more", "strategy: Batched\ncanary: -1"},
		"the key of a label":             {`spec.rollout.groupBy[0]: Invalid value: "a b"`, "strategy: Batched\ngroupBy: [a b]"},
		"a key twice":                    {`spec.rollout.groupBy[1]: Duplicate value: "a"`, "strategy: Batched\ngroupBy: [a, a]"},
		"too many keys":                  {"spec.rollout.groupBy: Too many", "strategy: Batched\ngroupBy: [a, b, c, d, e, f, g, h, i]"},
		"a deadline too short":           {"spec.rollout.progressDeadlineSeconds: Invalid value: 30: must be more than minReadySeconds, which is 60: every device would be late", "strategy: Batched\nminReadySeconds: 60\nprogressDeadlineSeconds: 30"},
		"ready too late":                 {"spec.rollout.progressDeadlineSeconds: Invalid value: 600: must be more", "strategy: Batched\nminReadySeconds: 600"},
		"no deadline":                    {"spec.rollout.progressDeadlineSeconds: Invalid value: 0: must be 1 or more", "strategy: Batched\nprogressDeadlineSeconds: 0"},
		"a deadline for ever":            {"spec.rollout.progressDeadlineSeconds: Invalid value: 2147483647: must be at most", "strategy: Batched\nprogressDeadlineSeconds: 2147483647"},
		"negative readiness":             {"spec.rollout.minReadySeconds: Invalid value: -1", "strategy: Batched\nminReadySeconds: -1"},
		"another action":                 {`spec.rollout.onFailure: Unsupported value: "Panic": supported values: "Pause", "Rollback", "Continue"`, "strategy: Batched\nonFailure: Panic"},
		"another removal":                {`spec.rollout.removal: Unsupported value: "Never"`, "strategy: Batched\nremoval: Never"},
		"negative failures":              {"spec.rollout.failureThreshold: Invalid value: -3", "strategy: Batched\nfailureThreshold: -3"},
		"no removal at all":              {"", "strategy: Batched\nmaxRemoval: 0"},
		"a negative approval":            {"spec.rollout.approvedBatch: Invalid value: -1", "strategy: Batched\napprovedBatch: -1"},
		"a negative approval of removal": {"spec.rollout.approvedRemoval: Invalid value: -1", "strategy: Batched\napprovedRemoval: -1"},
		"a window that never opens":      {`spec.rollout.windows[0].cron: Invalid value: "0 0 31 2 *": never comes, so that the window would never open`, "strategy: Batched\nwindows: [{cron: 0 0 31 2 *, duration: 1h}]"},
		"a cron":                         {`spec.rollout.windows[0].cron: Invalid value: "at night"`, "strategy: Batched\nwindows: [{cron: at night, duration: 1h}]"},
		"an unknown time zone":           {`spec.rollout.windows[0].timeZone: Invalid value: "Europe/Zuerich": "Europe/Zuerich" is no time zone such as Europe/Zurich`, "strategy: Batched\nwindows: [{cron: 0 2 * * *, duration: 1h, timeZone: Europe/Zuerich}]"},
		"a window of no length":          {`spec.rollout.windows[0].duration: Invalid value: "0s"`, "strategy: Batched\nwindows: [{cron: 0 2 * * *, duration: 0s}]"},
		"too many windows":               {"spec.rollout.windows: Too many", "strategy: Batched\nwindows: [" + strings.Repeat("{cron: 0 2 * * *, duration: 1h},", 33) + "]"},
		"clocks nobody knows":            {"spec.rollout.timeZoneFrom: Required value: a window has deviceTime", "strategy: Batched\nwindows: [{cron: 0 2 * * *, duration: 1h, deviceTime: true}]"},
		"clocks nobody looks at":         {"spec.rollout.timeZoneFrom: Forbidden: no window has deviceTime", "strategy: Batched\ntimeZoneFrom: {label: a}"},
		"clocks from nowhere":            {"spec.rollout.timeZoneFrom: Invalid value: \"\": must have either label or annotation", "strategy: Batched\ntimeZoneFrom: {}\nwindows: [{cron: 0 2 * * *, duration: 1h, deviceTime: true}]"},
		"clocks from a label":            {`spec.rollout.timeZoneFrom.label: Invalid value: "a b"`, "strategy: Batched\ntimeZoneFrom: {label: a b}\nwindows: [{cron: 0 2 * * *, duration: 1h, deviceTime: true}]"},
		"clocks from an annotation":      {`spec.rollout.timeZoneFrom.annotation: Invalid value: "a b"`, "strategy: Batched\ntimeZoneFrom: {annotation: a b}\nwindows: [{cron: 0 2 * * *, duration: 1h, deviceTime: true}]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := parse(t, tc.text)
			if got := validate(&r); got == "" != (tc.says == "") || !strings.HasPrefix(got, tc.says) || strings.Contains(got, "\n") {
				t.Errorf("says %q, want %q", got, tc.says)
			}
		})
	}
}

// Every field is refused without batches, so that none is there that does nothing.
func TestImmediateHasNoOtherField(t *testing.T) {
	t.Parallel()
	r := parse(t, full)
	r.Strategy = rolloutspec.Immediate
	if found := r.Validate(field.NewPath("spec")); len(found) != 15 {
		t.Errorf("%d of 15 fields are refused: %v", len(found), found.ToAggregate())
	}
}

func TestTimeZoneOfADevice(t *testing.T) {
	t.Parallel()
	labels, annotations := map[string]string{"zone": "America.Argentina.Buenos_Aires"}, map[string]string{"zone": "Asia/Tokyo"}
	for want, s := range map[string]*rolloutspec.TimeZoneSource{
		"": nil, "America/Argentina/Buenos_Aires": {Label: "zone"}, "Asia/Tokyo": {Annotation: "zone"},
	} {
		if got := s.Of(labels, annotations); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}

// What is valid opens a plan that decides, whatever it says.
func FuzzRollout(f *testing.F) {
	f.Add(full)
	f.Add("strategy: Batched\nbatches: [{limit: 1%, successThreshold: 1%}]")
	f.Fuzz(func(t *testing.T, text string) {
		var r rolloutspec.Rollout
		if yaml.UnmarshalStrict([]byte(text), &r) != nil || r.Strategy != rolloutspec.Batched || len(r.Validate(nil)) > 0 {
			return
		}
		now := rollout.Moment{Wall: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), Elapsed: time.Hour}
		p := rollout.New(now, rollout.Setup{Spec: r.Spec(), Target: rollout.Target{Revision: "r1"}, Devices: []rollout.Facts{
			{Name: "a", Matched: true, Connected: true, Given: "r0", Outcome: rollout.Ready}, {Name: "b", Matched: true, Connected: true},
		}})
		p.Next(now)
		if v := p.Verdict(now); v.Phase == "" || v.Phase != rollout.Complete && v.Message == "" {
			t.Errorf("the verdict is %+v", v)
		}
	})
}
