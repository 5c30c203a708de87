package rollout_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/rollout"
)

// What is written is read by later versions.
func TestWhatIsWritten(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6, strict(func(s *rollout.Spec) {
		s.MaxUnavailable, s.OnFailure = rollout.Amount{N: 3}, rollout.Continue
		s.Batches = []rollout.Batch{{Selector: ring("canary"), Pause: time.Minute}, {Limit: &rollout.Amount{N: 4}}}
	}))
	f.target("r1")
	f.expect("d00")
	f.ready("d00")
	f.expect()
	passed := f.state.Passed
	f.wait(time.Minute)
	f.expect("d01", "d02", "d03")
	f.wait(time.Minute)
	f.report(rollout.Failed, "d02")
	f.connect(false, "d03")
	f.ready("d01")
	f.expect("d04")
	f.wait(9 * time.Minute)
	f.expect()
	got, err := json.MarshalIndent(f.state, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "revision": "r1",
  "released": "r0",
  "batches": "918d163b066fafca",
  "batch": 1,
  "taken": [
    1,
    4,
    0
  ],
  "flights": [
    {
      "revision": "r1",
      "batch": 2,
      "devices": [
        "d04"
      ]
    },
    {
      "revision": "r1",
      "batch": 2,
      "late": true,
      "devices": [
        "d03"
      ]
    },
    {
      "revision": "r1",
      "batch": 2,
      "failed": true,
      "devices": [
        "d02"
      ]
    }
  ]
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	if passed == nil || !passed.Equal(start) {
		t.Errorf("the first batch was done at %v", passed)
	}
}

// Nothing that somebody may have written there does harm.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"revision":"r1","released":"r0","batch":7,"taken":[-1,2],"flights":[{"revision":"r2","batch":99,"devices":["d00","d00","nobody"]},{"revision":"r3","late":true,"failed":true,"devices":["d00"]}]}`))
	f.Add([]byte(`{"rolledBack":true,"revision":"r1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fleet := newFleet(t, 3, strict(func(s *rollout.Spec) { s.OnFailure = rollout.Rollback }))
		if json.Unmarshal(data, &fleet.state) != nil {
			return
		}
		fleet.restart("r1")
		for range 3 {
			orders := fleet.plan.Next(fleet.now).Orders
			if len(orders) > 6 {
				t.Errorf("%d orders for 3 devices", len(orders))
			}
			fleet.wait(time.Hour)
		}
	})
}
