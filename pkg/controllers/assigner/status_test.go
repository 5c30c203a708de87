package assigner_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestConditionsSayWhatTheCountsMean(t *testing.T) {
	t.Parallel()
	const yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	type want struct {
		progressing metav1.ConditionStatus
		why         string
		available   metav1.ConditionStatus
		reason      string
		says        string
	}
	for name, tc := range map[string]struct {
		counts   assignment.Counts
		accepted bool
		want     want
	}{
		"no device":          {assignment.Counts{}, true, want{no, v1alpha1.ReasonNoDevicesMatched, no, v1alpha1.ReasonNoDevicesMatched, "no device"}},
		"all run":            {assignment.Counts{Matched: 2, Succeeded: 2}, true, want{no, v1alpha1.ReasonComplete, yes, v1alpha1.ReasonComplete, "2 of 2"}},
		"some on their way":  {assignment.Counts{Matched: 2, Succeeded: 1, Pending: 1}, true, want{yes, v1alpha1.ReasonRolling, no, v1alpha1.ReasonRolling, "1 of 2"}},
		"one failed":         {assignment.Counts{Matched: 2, Succeeded: 1, Failed: 1}, true, want{no, v1alpha1.ReasonDevicesFailed, no, v1alpha1.ReasonDevicesFailed, "1 failed"}},
		"failed and pending": {assignment.Counts{Matched: 3, Succeeded: 1, Failed: 1, Pending: 1}, true, want{yes, v1alpha1.ReasonRolling, no, v1alpha1.ReasonDevicesFailed, "1 failed"}},
		"offline but done":   {assignment.Counts{Matched: 1, Succeeded: 1, Offline: 1}, true, want{no, v1alpha1.ReasonComplete, yes, v1alpha1.ReasonComplete, "1 of 1"}},
		"one agent too old":  {assignment.Counts{Matched: 2, Succeeded: 1, Pending: 1, Outdated: 1}, true, want{yes, v1alpha1.ReasonRolling, no, v1alpha1.ReasonRolling, "1 of 2 devices run the current score, 1 device needs a newer agent"}},
		"agents too old":     {assignment.Counts{Matched: 5, Failed: 2, Pending: 3, Outdated: 3}, true, want{yes, v1alpha1.ReasonRolling, no, v1alpha1.ReasonDevicesFailed, "3 devices need a newer agent"}},
		"refused":            {assignment.Counts{Matched: 2, Pending: 2}, false, want{no, v1alpha1.ReasonHeld, no, v1alpha1.ReasonHeld, "keep what they run"}},
		"refused, no device": {assignment.Counts{}, false, want{no, v1alpha1.ReasonHeld, no, v1alpha1.ReasonHeld, "keep what they run"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := assigner.Conditions(tc.counts, tc.accepted)
			progressing, available := meta.FindStatusCondition(c, v1alpha1.DeploymentProgressing), meta.FindStatusCondition(c, v1alpha1.DeploymentAvailable)
			if len(c) != 2 || progressing == nil || available == nil {
				t.Fatalf("conditions are %+v", c)
			}
			got := want{progressing.Status, progressing.Reason, available.Status, available.Reason, available.Message}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(want{}, "says"), cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if !strings.Contains(available.Message, tc.want.says) {
				t.Errorf("message %q does not say %q", available.Message, tc.want.says)
			}
		})
	}
}

// The metrics and the conditions tell the same.
func TestPhase(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		counts   assignment.Counts
		accepted bool
		want     assigner.Phase
	}{
		"no device":            {assignment.Counts{}, true, assigner.Accepted},
		"refused":              {assignment.Counts{Matched: 2, Failed: 1, Pending: 1}, false, assigner.Refused},
		"refused, no device":   {assignment.Counts{}, false, assigner.Refused},
		"failed and pending":   {assignment.Counts{Matched: 3, Succeeded: 1, Failed: 1, Pending: 1}, true, assigner.Failed},
		"pending":              {assignment.Counts{Matched: 2, Succeeded: 1, Pending: 1}, true, assigner.RollingOut},
		"all run, one offline": {assignment.Counts{Matched: 2, Succeeded: 2, Offline: 1}, true, assigner.RolledOut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := assigner.PhaseOf(tc.counts, tc.accepted); got != tc.want {
				t.Errorf("phase %s, want %s", got, tc.want)
			}
		})
	}
}

// Tools that know nothing of fleet follow a rollout by these.
func TestReadinessIsKstatus(t *testing.T) {
	t.Parallel()
	failure := &assignment.Failure{Device: "edge-1", Error: "no image"}
	for name, tc := range map[string]struct {
		counts  assignment.Counts
		refused bool
		problem string // the condition that is True, if not Ready
		reason  string
		says    string
	}{
		"no device":             {assignment.Counts{}, false, "", v1alpha1.ReasonNoDevicesMatched, "no device"},
		"all run":               {assignment.Counts{Matched: 2, Succeeded: 2}, false, "", v1alpha1.ReasonComplete, "2 of 2"},
		"all run, one is off":   {assignment.Counts{Matched: 2, Succeeded: 2, Offline: 1}, false, "", v1alpha1.ReasonComplete, "2 of 2"},
		"some on their way":     {assignment.Counts{Matched: 2, Succeeded: 1, Pending: 1}, false, v1alpha1.DeploymentReconciling, v1alpha1.ReasonRolling, "1 of 2"},
		"all are off":           {assignment.Counts{Matched: 2, Pending: 2, Offline: 2}, false, v1alpha1.DeploymentReconciling, v1alpha1.ReasonRolling, "0 of 2"},
		"an agent is too old":   {assignment.Counts{Matched: 1, Pending: 1, Outdated: 1}, false, v1alpha1.DeploymentReconciling, v1alpha1.ReasonRolling, "newer agent"},
		"one failed":            {assignment.Counts{Matched: 2, Succeeded: 1, Failed: 1, Newest: failure}, false, v1alpha1.DeploymentStalled, v1alpha1.ReasonDevicesFailed, "1 failed; on edge-1: no image"},
		"failed and on the way": {assignment.Counts{Matched: 2, Pending: 1, Failed: 1, Newest: failure}, false, v1alpha1.DeploymentStalled, v1alpha1.ReasonDevicesFailed, "0 of 2"},
		"refused":               {assignment.Counts{Matched: 1, Succeeded: 1, Refusal: assignment.Refusal{Message: "no such Secret"}}, true, v1alpha1.DeploymentStalled, v1alpha1.ReasonHeld, "not accepted, so devices keep what they run: no such Secret"},
		"refused, no device":    {assignment.Counts{}, true, v1alpha1.DeploymentStalled, v1alpha1.ReasonHeld, "not accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := []metav1.Condition{{Type: v1alpha1.DeploymentReady, Status: metav1.ConditionTrue, Reason: tc.reason}}
			if tc.problem != "" {
				want[0].Status = metav1.ConditionFalse
				want = append(want, metav1.Condition{Type: tc.problem, Status: metav1.ConditionTrue, Reason: tc.reason})
			}
			got := assigner.Readiness(tc.counts, !tc.refused)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(metav1.Condition{}, "Message")); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			for _, c := range got {
				if !strings.Contains(c.Message, tc.says) {
					t.Errorf("message %q does not say %q", c.Message, tc.says)
				}
			}
		})
	}
}

func drawCounts(t *rapid.T) assignment.Counts {
	few := rapid.IntRange(0, 2)
	c := assignment.Counts{Succeeded: few.Draw(t, "succeeded"), Failed: few.Draw(t, "failed"), Pending: few.Draw(t, "pending")}
	c.Matched = c.Succeeded + c.Failed + c.Pending
	c.Offline = rapid.IntRange(0, c.Matched).Draw(t, "offline")
	c.Outdated = rapid.IntRange(0, c.Pending).Draw(t, "outdated")
	if c.Failed > 0 {
		at := time.Unix(rapid.Int64Range(0, 5).Draw(t, "at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
		c.Newest = &assignment.Failure{Device: "edge-1", Error: "no image", LastEventAt: at}
	}
	return c
}

// What is written is what the API gives back, or every pass would write again.
func TestStatusIsTheSameAfterATripThroughTheAPI(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		previous := &v1alpha1.DeploymentStatus{}
		for range 3 {
			counts, accepted := drawCounts(t), rapid.Bool().Draw(t, "accepted")
			generation := rapid.Int64Range(1, 2).Draw(t, "generation")
			now := assigner.NewStatus(counts, accepted, generation, previous)
			data, err := json.Marshal(now)
			if err != nil {
				t.Fatal(err)
			}
			stored := &v1alpha1.DeploymentStatus{}
			if err := json.Unmarshal(data, stored); err != nil {
				t.Fatal(err)
			}
			again := assigner.NewStatus(counts, accepted, generation, stored)
			if !assigner.Same(again, stored) {
				t.Fatalf("unchanged status counts as changed:\n%s", cmp.Diff(stored, again))
			}
			a := now.Aggregate
			if a.MatchedDeviceCount != counts.Matched || a.Succeeded != counts.Succeeded || a.Failed != counts.Failed ||
				a.Pending != counts.Pending || a.Outdated != counts.Outdated || a.Offline != counts.Offline || (a.LastError != nil) != (counts.Newest != nil) {
				t.Fatalf("aggregate %+v does not show %+v", a, counts)
			}
			previous = stored
		}
	})
}

func TestSameSeesEveryDifference(t *testing.T) {
	t.Parallel()
	failure := &assignment.Failure{Device: "edge-1", Error: "no image"}
	base := func() *v1alpha1.DeploymentStatus {
		return assigner.NewStatus(assignment.Counts{Matched: 1, Failed: 1, Newest: failure}, true, 1, &v1alpha1.DeploymentStatus{})
	}
	then := base()
	for name, tc := range map[string]struct {
		change func(*v1alpha1.DeploymentStatus)
		same   bool
	}{
		"nothing": {func(*v1alpha1.DeploymentStatus) {}, true},
		"condition of others": {func(s *v1alpha1.DeploymentStatus) {
			s.Conditions = append(s.Conditions, metav1.Condition{Type: "Accepted"})
		}, true},
		"generation": {func(s *v1alpha1.DeploymentStatus) { s.ObservedGeneration++ }, false},
		"progress": {func(s *v1alpha1.DeploymentStatus) {
			s.Aggregate.Progress = &v1alpha1.DeviceProgress{Device: "edge-1", Message: "pulling web: 1 of 9 MB"}
		}, false},
		"a number":            {func(s *v1alpha1.DeploymentStatus) { s.Aggregate.Offline++ }, false},
		"the error":           {func(s *v1alpha1.DeploymentStatus) { s.Aggregate.LastError.Message = "other" }, false},
		"no error":            {func(s *v1alpha1.DeploymentStatus) { s.Aggregate.LastError = nil }, false},
		"no aggregate":        {func(s *v1alpha1.DeploymentStatus) { s.Aggregate = nil }, false},
		"a condition is gone": {func(s *v1alpha1.DeploymentStatus) { s.Conditions = s.Conditions[:1] }, false},
		"a problem more": {func(s *v1alpha1.DeploymentStatus) {
			s.Conditions = append(s.Conditions, metav1.Condition{Type: v1alpha1.DeploymentReconciling})
		}, false},
		"a message": {func(s *v1alpha1.DeploymentStatus) { s.Conditions[1].Message = "other" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := then.DeepCopy()
			tc.change(changed)
			if got := assigner.Same(then, changed); got != tc.same {
				t.Errorf("same: %v, want %v", got, tc.same)
			}
		})
	}
}

func TestTransitionTimeMovesWithTheStatusOnly(t *testing.T) {
	t.Parallel()
	long := metav1.NewTime(time.Unix(1000, 0))
	previous := assigner.NewStatus(assignment.Counts{Matched: 2, Succeeded: 1, Pending: 1}, true, 1, &v1alpha1.DeploymentStatus{})
	for i := range previous.Conditions {
		previous.Conditions[i].LastTransitionTime = long
	}
	s := assigner.NewStatus(assignment.Counts{Matched: 3, Succeeded: 2, Pending: 1}, true, 2, previous)
	for _, c := range s.Conditions {
		if !c.LastTransitionTime.Equal(&long) {
			t.Errorf("%s counts as changed when only its message did", c.Type)
		}
	}
	s = assigner.NewStatus(assignment.Counts{Matched: 3, Succeeded: 3}, true, 2, s)
	for _, c := range s.Conditions {
		if c.LastTransitionTime.Equal(&long) {
			t.Errorf("%s is now %s since before it was", c.Type, c.Status)
		}
	}
}

// statusAPI is as much of an API server as writing a status needs.
//
// It answers without a network, so that the tests can have a clock of their own.
type statusAPI struct {
	store cache.Store
	mux   *http.ServeMux

	mu     sync.Mutex // guards writes and status
	writes []write
	// status is the HTTP status to answer with; 200 when zero.
	status int
}

// write is one status that arrived.
type write struct {
	name      string
	at        time.Time
	status    v1alpha1.DeploymentStatus
	forced    bool
	byManager string
}

func newStatusAPI() *statusAPI {
	a := &statusAPI{store: cache.NewStore(cache.MetaNamespaceKeyFunc), mux: http.NewServeMux()}
	a.mux.HandleFunc("PATCH /apis/fleet.nationtech.io/v1alpha1/namespaces/{namespace}/deployments/{name}/status", a.patch)
	return a
}

// RoundTrip implements http.RoundTripper.
func (a *statusAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	a.mux.ServeHTTP(w, r)
	return w.Result(), nil
}

func (a *statusAPI) patch(w http.ResponseWriter, r *http.Request) {
	var d v1alpha1.Deployment
	if r.Header.Get("Content-Type") != string(types.ApplyPatchType) || json.NewDecoder(r.Body).Decode(&d) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes = append(a.writes, write{d.Name, time.Now(), d.Status, r.URL.Query().Get("force") == "true", r.URL.Query().Get("fieldManager")})
	w.Header().Set("Content-Type", "application/json")
	if a.status != 0 {
		w.WriteHeader(a.status)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusFailure, Code: int32(a.status), Reason: reasonOf(a.status)})
		return
	}
	_ = json.NewEncoder(w).Encode(d)
}

func reasonOf(status int) metav1.StatusReason {
	if status == http.StatusNotFound {
		return metav1.StatusReasonNotFound
	}
	return metav1.StatusReasonInternalError
}

func (a *statusAPI) answer(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = status
}

func (a *statusAPI) seen() []write {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]write(nil), a.writes...)
}

// wait waits for the nth write.
func (a *statusAPI) wait(t testing.TB, n int) write {
	t.Helper()
	var all []write
	brokertest.Eventually(t, fmt.Sprintf("write %d", n), func() error {
		if all = a.seen(); len(all) < n {
			return fmt.Errorf("there are %d", len(all))
		}
		return nil
	})
	return all[n-1]
}

func (a *statusAPI) put(t testing.TB, name string, uid types.UID) {
	t.Helper()
	err := a.store.Add(&v1alpha1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: uid, Generation: 1}})
	if err != nil {
		t.Fatal(err)
	}
}

func (a *statusAPI) writer(t testing.TB, table *assignment.Table) *assigner.StatusWriter {
	t.Helper()
	c, err := client.New(&rest.Config{Host: "http://api", Transport: a, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	w := assigner.NewStatusWriter(c, a.store, table, logger(t))
	background(t, w.Run)
	return w
}

// What happens to a rollout is told: failures when they begin and when they are twice as many,
// and their end. After a restart nothing is told again.
func TestARolloutIsTold(t *testing.T) {
	t.Parallel()
	const devices = 8
	api, table := newStatusAPI(), assignment.NewTable(nil)
	api.put(t, "web", "1")
	c, err := client.New(&rest.Config{Host: "http://api", Transport: api, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	recorder := record.NewFakeRecorder(100)
	w := assigner.NewTellingStatusWriter(c, api.store, table, recorder, logger(t))
	deployment := deploymentOf(refs[0], "", 0)
	for i := range devices {
		table.SetDevice(assignment.Device{Name: fmt.Sprintf("edge-%d", i)})
	}
	table.SetDeployment(deployment)
	// Of the devices, the first so many fail, and so many others succeed.
	report := func(failed, succeeded int) []string {
		for i := range devices {
			state := wire.DeploymentState{DeploymentRef: refs[0], Hash: deployment.Entry.Hash, Phase: wire.PhasePending, LastEventAt: time.Unix(1000, 0)}
			switch {
			case i < failed:
				state.Phase, state.Error = wire.PhaseFailed, "no image"
			case i < failed+succeeded:
				state.Phase = wire.PhaseRunning
			}
			table.SetState(fmt.Sprintf("edge-%d", i), state)
		}
		w.Add(refs[:1])
		w.Flush(t.Context())
		var told []string
		for len(recorder.Events) > 0 {
			told = append(told, <-recorder.Events)
		}
		return told
	}
	for _, step := range []struct {
		failed, succeeded int
		restart           bool
		want              string
	}{
		{0, 0, false, ""},
		{1, 3, false, "Warning DevicesFailed the score fails on 1 device of 8, such as edge-0: no image"},
		{1, 4, false, ""},
		{3, 4, false, "Warning DevicesFailed the score fails on 3 devices of 8, such as edge-0: no image"},
		{5, 3, false, ""},
		{5, 3, true, ""},
		{6, 2, false, ""},
		{0, 7, false, "Normal Recovered no device fails any more: 7 of 8 devices run the current score"},
		{0, 8, false, "Normal RolledOut all 8 devices run the current score"},
		{0, 8, true, ""},
		{2, 6, false, "Warning DevicesFailed the score fails on 2 devices of 8, such as edge-0: no image"},
		{0, 8, false, "Normal Recovered no device fails any more: 8 of 8 devices run the current score"},
	} {
		if step.restart {
			writes := api.seen()
			stored := &v1alpha1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "1", Generation: 1}, Status: writes[len(writes)-1].status}
			if err := api.store.Update(stored); err != nil {
				t.Fatal(err)
			}
			w = assigner.NewTellingStatusWriter(c, api.store, table, recorder, logger(t))
		}
		if got := strings.Join(report(step.failed, step.succeeded), "; "); got != step.want {
			t.Errorf("%d failed, %d succeeded: %q is told, want %q", step.failed, step.succeeded, got, step.want)
		}
	}
}

// Why a score is not accepted is where people look for errors, without a device.
func TestARefusalIsTheLastError(t *testing.T) {
	t.Parallel()
	api, table := newStatusAPI(), assignment.NewTable(nil)
	api.put(t, "web", "1")
	c, err := client.New(&rest.Config{Host: "http://api", Transport: api, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	w := assigner.NewStatusWriter(c, api.store, table, logger(t))
	deployment := deploymentOf(refs[0], "", 0)
	for _, accepted := range []bool{true, false, true} {
		deployment.Accepted, deployment.Refusal = accepted, assignment.Refusal{}
		if !accepted {
			deployment.Refusal = assignment.Refusal{Reason: "Invalid", Message: "it has no image"}
		}
		w.Add(table.SetDeployment(deployment).Deployments)
		w.Flush(t.Context())
		writes := api.seen()
		got, want := writes[len(writes)-1].status.Aggregate.LastError, &v1alpha1.DeviceError{Message: "Invalid: it has no image"}
		if accepted {
			want = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("accepted %v: the last error (-want +got):\n%s", accepted, diff)
		}
	}
}

func TestStatusIsWrittenAtOnceThenPaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, table := newStatusAPI(), assignment.NewTable(nil)
		w := api.writer(t, table)
		api.put(t, "web", "1")
		c := table.SetDeployment(deploymentOf(refs[0], "", 0))
		began := time.Now()
		w.Add(c.Deployments)
		first := api.wait(t, 1)
		if !first.at.Equal(began) {
			t.Errorf("the first write came after %s", first.at.Sub(began))
		}
		if !first.forced || first.byManager != "fleet-status" {
			t.Errorf("it was written as %+v", first)
		}
		for i := range 50 {
			w.Add(table.SetDevice(assignment.Device{Name: fmt.Sprintf("edge-%d", i)}).Deployments)
		}
		second := api.wait(t, 2)
		if gap := second.at.Sub(first.at); gap != time.Second {
			t.Errorf("the next write came after %s", gap)
		}
		if n := second.status.Aggregate.MatchedDeviceCount; n != 50 {
			t.Errorf("it counts %d devices, want the newest number", n)
		}
		// A third write for something real: nothing came between for what did not change.
		w.Add(c.Deployments)
		w.Add(table.RemoveDevice("edge-0").Deployments)
		if third := api.wait(t, 3); third.status.Aggregate.MatchedDeviceCount != 49 {
			t.Errorf("the third write has %+v", third.status.Aggregate)
		}
	})
}

func TestUnchangedStatusIsNotWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, table := newStatusAPI(), assignment.NewTable(nil)
		w := api.writer(t, table)
		api.put(t, "web", "1")
		w.Add(table.SetDeployment(deploymentOf(refs[0], "", 0)).Deployments)
		api.wait(t, 1)
		w.Add(refs[:1])
		time.Sleep(time.Minute)
		if writes := api.seen(); len(writes) != 1 {
			t.Errorf("written: %+v", writes)
		}
	})
}

func TestFailedStatusIsWrittenAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, table := newStatusAPI(), assignment.NewTable(nil)
		api.answer(http.StatusInternalServerError)
		w := api.writer(t, table)
		api.put(t, "web", "1")
		w.Add(table.SetDeployment(deploymentOf(refs[0], "", 0)).Deployments)
		api.wait(t, 1)
		api.answer(0)
		api.wait(t, 2)
	})
}

// An object that was deleted and created again has no status, however much it
// looks like the one before.
func TestRecreatedDeploymentGetsItsStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, table := newStatusAPI(), assignment.NewTable(nil)
		w := api.writer(t, table)
		api.put(t, "web", "1")
		w.Add(table.SetDeployment(deploymentOf(refs[0], "", 0)).Deployments)
		api.wait(t, 1)
		api.put(t, "web", "2") // within the interval: nobody saw it gone
		w.Add(table.SetDeployment(deploymentOf(refs[0], "", 0)).Deployments)
		api.wait(t, 2)
	})
}

func TestStatusOfADeploymentThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, table := newStatusAPI(), assignment.NewTable(nil)
		api.answer(http.StatusNotFound)
		w := api.writer(t, table)
		api.put(t, "web", "1")
		w.Add(table.SetDeployment(deploymentOf(refs[0], "", 0)).Deployments)
		api.wait(t, 1)
		w.Add(table.RemoveDeployment(refs[0]).Deployments)
		time.Sleep(time.Minute)
		if writes := api.seen(); len(writes) != 1 {
			t.Errorf("written: %+v", writes)
		}
	})
}
