package device_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// oneDevice is an API with one Device. Patches and statuses of any other version than the
// present one fail.
type oneDevice struct {
	version  int
	accepted []map[string]any
	// asked is how many requests there were.
	asked int
	// wrong are labels that somebody set.
	wrong map[string]string
	// refuses returns whether a status is one that the API does not take; nil for none.
	refuses func(status map[string]any) bool
	// fails: the API store takes no status at the moment.
	fails bool
}

func (a *oneDevice) object() *v1alpha1.Device {
	d := &v1alpha1.Device{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Device"},
		ObjectMeta: metav1.ObjectMeta{Name: "edge-1", UID: "u", ResourceVersion: string(rune('0' + a.version)), Labels: map[string]string{
			v1alpha1.LabelArch: "amd64", v1alpha1.LabelOS: "linux", v1alpha1.LabelDeviceID: "edge-1", v1alpha1.LabelShortDeviceID: "edge-1",
		}},
		Spec: v1alpha1.DeviceSpec{Enrollment: &v1alpha1.DeviceEnrollment{AllowedLabelKeys: []string{"group"}}},
	}
	maps.Copy(d.Labels, a.wrong)
	return d
}

// RoundTrip implements http.RoundTripper.
func (a *oneDevice) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked++
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	answer := any(a.object())
	if r.Method == http.MethodPatch || strings.HasSuffix(r.URL.Path, "/status") {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		var patch map[string]any
		if err := json.Unmarshal(data, &patch); err != nil {
			return nil, err
		}
		given, has := patch["metadata"].(map[string]any)["resourceVersion"]
		status, _ := patch["status"].(map[string]any)
		if a.fails {
			w.WriteHeader(http.StatusInternalServerError)
			answer = apierrors.NewInternalError(errors.New("database is locked")).Status()
		} else if a.refuses != nil && a.refuses(status) {
			invalid := apierrors.NewInvalid(v1alpha1.GroupVersion.WithKind("Device").GroupKind(), "edge-1", nil)
			w.WriteHeader(http.StatusUnprocessableEntity)
			answer = invalid.Status()
		} else if has && given != a.object().ResourceVersion {
			conflict := apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("devices").GroupResource(), "edge-1", nil)
			w.WriteHeader(http.StatusConflict)
			answer = conflict.Status()
		} else {
			a.accepted = append(a.accepted, patch)
			a.version++
			answer = a.object()
		}
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// controllerOf returns a controller of devices of an API, its roster, and what is
// around them.
func controllerOf(t *testing.T, api http.RoundTripper) (*device.Controller, *roster.Roster, *stuckDoor) {
	t.Helper()
	c, err := client.New(&rest.Config{Host: "http://api", Transport: api, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	tombstones, err := tombstone.Open(filepath.Join(t.TempDir(), "revoked-keys.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tombstones.Close() })
	door := &stuckDoor{leaves: func(string) {}}
	devices := roster.New(roster.Config{Fleet: "fleet", Revoked: tombstones, Outside: door})
	controller := device.New(device.Config{
		Client: c, Tombstones: tombstones, Roster: devices, Door: door, Uses: door,
		Recorder: record.NewFakeRecorder(10), Logger: slog.New(slog.DiscardHandler),
		Lacks: func(string) ([]assignment.Lack, bool) { return nil, false }, Problems: func(string) ([]assignment.Problem, bool) { return nil, false },
	})
	t.Cleanup(controller.ShutDown)
	return controller, devices, door
}

// An agent that is refused before the cache has its Device is told of once it has, and once.
func TestAgentThatIsTooOldIsToldOfWhenItsDeviceIsThere(t *testing.T) {
	t.Parallel()
	api := &oneDevice{version: 1}
	controller, _, _ := controllerOf(t, api)
	controller.Devices = cache.NewSharedIndexInformer(&cache.ListWatch{}, &v1alpha1.Device{}, 0, cache.Indexers{})
	told := controller.Recorder.(*record.FakeRecorder).Events
	reconcile := func() {
		t.Helper()
		if _, err := controller.Reconcile(t.Context(), "edge-1"); err != nil {
			t.Fatal(err)
		}
	}
	controller.Outdated("edge-1")
	reconcile()
	if n := len(told); n > 0 {
		t.Errorf("%d events without a Device", n)
	}
	if err := controller.Devices.GetStore().Add(api.object()); err != nil {
		t.Fatal(err)
	}
	reconcile()
	reconcile()
	var events []string
	for len(told) > 0 {
		events = append(events, <-told)
	}
	if len(events) != 1 || !strings.Contains(events[0], "AgentTooOld") {
		t.Errorf("events are %q", events)
	}
}

// A Device that was released and that somebody else's finalizer keeps takes no room
// in the roster, however often it changes.
func TestReleasedDeviceHasNoRecord(t *testing.T) {
	t.Parallel()
	controller, devices, door := controllerOf(t, &oneDevice{version: 1})
	d := (&oneDevice{version: 1}).object()
	now := metav1.Now()
	d.Spec.Enrollment.Token, d.Spec.Enrollment.TokenUse = "t", 7
	d.DeletionTimestamp, d.Finalizers = &now, []string{v1alpha1.DeviceFinalizer, "example.com/inventory"}
	controller.Refuse(d)
	if devices.Len() != 1 {
		t.Fatal("a device that is deleted is not refused before its key is")
	}
	if err := controller.Release(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	controller.Refuse(d)
	if n := devices.Len(); n != 0 {
		t.Errorf("the roster has %d records of a device that was released", n)
	}
	if diff := cmp.Diff([]string{"t 7"}, door.settled); diff != "" {
		t.Errorf("uses of tokens that are counted (-want +got):\n%s", diff)
	}
}

// What the API refuses of a status keeps nothing else out.
func TestRefusedPartOfAStatus(t *testing.T) {
	t.Parallel()
	for part, want := range map[string][]string{
		"claimants": {"conditions", "nonce"}, "conditions": {"claimants", "nonce"}, "nonce": {"claimants", "conditions"}, "": {"claimants", "conditions", "nonce"},
	} {
		api := &oneDevice{version: 1, refuses: func(status map[string]any) bool { return status[part] != nil }}
		controller, devices, door := controllerOf(t, api)
		door.dropped = map[uint64]bool{}
		devices.Bind("edge-1", roster.Keys{Current: "k1"})
		for i, nonce := range []string{"", "a stale one"} {
			session := fmt.Sprintf("%016x", i)
			if _, err := devices.Connected("edge-1", roster.Connection{ID: uint64(i), Session: session, Proof: roster.Proof{Key: "k1"}}); err != nil {
				t.Fatal(err)
			}
			_, _ = devices.Snapshot("edge-1", session, roster.Claim{Nonce: nonce, Epoch: "e1"})
			devices.Disconnected(uint64(i))
		}
		if err := controller.WriteStatus(t.Context(), api.object()); err != nil {
			t.Errorf("without %s: %v", part, err)
		}
		last, _ := api.accepted[len(api.accepted)-1]["status"].(map[string]any)
		got := slices.DeleteFunc(slices.Sorted(maps.Keys(last)), func(s string) bool { return !slices.Contains(append(want, part), s) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("without %s (-want +got):\n%s", part, diff)
		}
		if stored := !devices.Stored("edge-1", devices.Record("edge-1").Nonce); stored != (part != "nonce") {
			t.Errorf("without %s the nonce counts as stored: %v", part, stored)
		}
	}
}

// What the API store fails to write is written later.
func TestAStatusThatFailsIsWrittenAgain(t *testing.T) {
	t.Parallel()
	api := &oneDevice{version: 1, fails: true}
	controller, devices, _ := controllerOf(t, api)
	devices.Bind("edge-1", roster.Keys{Current: "k1"})
	if _, err := devices.Connected("edge-1", roster.Connection{ID: 1, Session: "00000000000000a1", Proof: roster.Proof{Key: "k1"}}); err != nil {
		t.Fatal(err)
	}
	if err := controller.WriteStatus(t.Context(), api.object()); !apierrors.IsInternalError(err) || len(api.accepted) > 0 {
		t.Errorf("it ends with %v after %v", err, api.accepted)
	}
	api.fails = false
	if err := controller.WriteStatus(t.Context(), api.object()); err != nil || len(api.accepted) != 1 {
		t.Errorf("the next time it ends with %v after %v", err, api.accepted)
	}
}

// What is decided by one version of a Device is not written over another: an
// operator who labels a device, or accepts it, at that moment wins.
func TestWritesAreOfTheVersionThatWasRead(t *testing.T) {
	t.Parallel()
	for _, meddled := range []bool{false, true} {
		api := &oneDevice{version: 1}
		controller, _, _ := controllerOf(t, api)
		d := api.object()
		controller.Report("edge-1", wire.DeviceInfo{Labels: map[string]string{"group": "a"}, Inventory: wire.Inventory{Arch: "amd64"}})
		if meddled {
			api.version++
		}
		changed, err := controller.WriteReport(t.Context(), d)
		if apierrors.IsConflict(err) != meddled || changed == meddled {
			t.Errorf("meddled %v: the report is written: %v, %v", meddled, changed, err)
		}
		// The cache has the version from before.
		if err := controller.WriteStatus(t.Context(), d); !apierrors.IsConflict(err) {
			t.Errorf("meddled %v: the status of another version is written: %v", meddled, err)
		}
		want := 1
		if meddled {
			want = 0
		}
		if len(api.accepted) != want {
			t.Errorf("meddled %v: %d writes were accepted", meddled, len(api.accepted))
		}
		// Once it is looked at again, it is written.
		if _, err := controller.WriteReport(t.Context(), api.object()); err != nil {
			t.Error(err)
		}
		if err := controller.WriteStatus(t.Context(), api.object()); err != nil || len(api.accepted) != 2 {
			t.Errorf("meddled %v: afterwards %d writes were accepted, %v", meddled, len(api.accepted), err)
		}
	}
}

// After a restart of the server all devices are there at once, and nearly all of them
// report what their objects have already: that costs the API nothing.
func TestWhatAReportSaysIsWrittenOnce(t *testing.T) {
	t.Parallel()
	info := wire.DeviceInfo{Labels: map[string]string{"group": "a"}, Inventory: wire.Inventory{Arch: "amd64", Hostname: "edge-1", Addresses: []string{"192.0.2.1"}}}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Device)
		writes int
	}{
		"nothing":                   {func(*v1alpha1.Device) {}, 0},
		"another value":             {func(d *v1alpha1.Device) { d.Labels["group"] = "b" }, 1},
		"a label is gone":           {func(d *v1alpha1.Device) { delete(d.Labels, "group") }, 1},
		"another inventory":         {func(d *v1alpha1.Device) { d.Spec.Inventory.Addresses = nil }, 1},
		"no inventory":              {func(d *v1alpha1.Device) { d.Spec.Inventory = nil }, 1},
		"one label too many":        {func(d *v1alpha1.Device) { d.Labels["device.fleet.nationtech.io/old"] = "x" }, 1},
		"the identity is another":   {func(d *v1alpha1.Device) { d.Labels[v1alpha1.LabelDeviceID] = "edge-2" }, 1},
		"a label of an operator":    {func(d *v1alpha1.Device) { d.Labels["site"] = "x" }, 0},
		"the operator's wins":       {func(d *v1alpha1.Device) { d.ManagedFields = nil; d.Labels["group"] = "b" }, 0},
		"nobody has an entry":       {func(d *v1alpha1.Device) { d.ManagedFields = nil }, 0},
		"managed fields are spoilt": {func(d *v1alpha1.Device) { d.ManagedFields[0].FieldsV1 = metav1.NewFieldsV1("{") }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &oneDevice{version: 1}
			controller, _, _ := controllerOf(t, api)
			controller.Report("edge-1", info)
			d := api.object()
			d.Labels["group"] = "a"
			d.Spec.Inventory = new(v1alpha1.Inventory(info.Inventory))
			d.ManagedFields = []metav1.ManagedFieldsEntry{{
				Manager: client.DeviceManager, Operation: metav1.ManagedFieldsOperationApply,
				FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:group":{},"f:device.fleet.nationtech.io/old":{},"f:kubernetes.io/arch":{}}}}`),
			}}
			tc.change(d)
			changed, err := controller.WriteReport(t.Context(), d)
			if (err != nil) != (tc.writes < 0) || changed != (tc.writes > 0) || api.asked != max(0, tc.writes) {
				t.Errorf("changed %v, %d requests, want %d: %v", changed, api.asked, tc.writes, err)
			}
		})
	}
}

// A device that reports A, B and A again ends with A, also when the cache is behind and has the
// first A still.
func TestACacheThatIsBehindDecidesNothing(t *testing.T) {
	t.Parallel()
	reports := func(group string) wire.DeviceInfo {
		return wire.DeviceInfo{Labels: map[string]string{"group": group}, Inventory: wire.Inventory{Arch: "amd64", Hostname: group}}
	}
	api := &oneDevice{version: 1}
	controller, _, _ := controllerOf(t, api)
	has := func(group string) *v1alpha1.Device {
		d := api.object()
		d.Labels["group"], d.Spec.Inventory = group, new(v1alpha1.Inventory(reports(group).Inventory))
		d.ManagedFields = []metav1.ManagedFieldsEntry{{
			Manager: client.DeviceManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:group":{}}}}`),
		}}
		return d
	}
	first := has("a")
	for n, step := range []struct {
		reports string
		cached  func() *v1alpha1.Device
		writes  int
	}{
		{"a", func() *v1alpha1.Device { return first }, 0},
		{"b", func() *v1alpha1.Device { return first }, 1},
		{"a", func() *v1alpha1.Device { return first }, 1},
		{"", func() *v1alpha1.Device { return has("b") }, 2}, // the cache follows
		{"", func() *v1alpha1.Device { return has("a") }, 2},
	} {
		if step.reports != "" {
			controller.Report("edge-1", reports(step.reports))
		}
		if _, err := controller.WriteReport(t.Context(), step.cached()); err != nil || len(api.accepted) != step.writes {
			t.Fatalf("step %d: %d writes, want %d: %v", n, len(api.accepted), step.writes, err)
		}
	}
	again := has("a")
	again.UID = "another"
	controller.Report("edge-1", reports("b"))
	if _, err := controller.WriteReport(t.Context(), again); err != nil || len(api.accepted) != 3 {
		t.Errorf("a Device that was made anew: %d writes, %v", len(api.accepted), err)
	}
}

// A status that was written does not come back as work, and what anybody writes after it
// does.
func TestOwnStatusIsNoWork(t *testing.T) {
	t.Parallel()
	api := &oneDevice{version: 1}
	controller, devices, _ := controllerOf(t, api)
	devices.Bind("edge-1", roster.Keys{Current: "k1"})
	before := api.object()
	if err := controller.WriteStatus(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	written := api.object()
	other := api.object()
	other.Name = "edge-2"
	api.version++
	for name, tc := range map[string]struct {
		device *v1alpha1.Device
		want   bool
	}{"before": {before, false}, "written": {written, true}, "of another": {other, false}, "after": {api.object(), false}} {
		if got := controller.IsOwnStatus(tc.device); got != tc.want {
			t.Errorf("%s, at version %s: own is %v", name, tc.device.ResourceVersion, got)
		}
	}
}

// clockAt is a clock that stands still.
type clockAt time.Time

func (c clockAt) Now() time.Time { return time.Time(c) }
func (clockAt) Sane() error      { return nil }

// A device that enrolls is about to connect: what it says then is written at once, and
// nothing before. One that does not connect shows that soon.
func TestStatusWaitsForADeviceThatEnrolled(t *testing.T) {
	t.Parallel()
	controller, devices, _ := controllerOf(t, &oneDevice{version: 1})
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	controller.Clock = clockAt(now)
	enrolled := func(name string, ago time.Duration) *v1alpha1.Device {
		d := (&oneDevice{version: 1}).object()
		d.Name = name
		d.Spec.Enrollment.EnrolledAt = new(metav1.NewTime(now.Add(-ago)))
		return d
	}
	written := enrolled("written", 0)
	written.Status.Conditions = []metav1.Condition{{Type: v1alpha1.DeviceConnected}}
	prepared := enrolled("prepared", 0)
	prepared.Spec.Enrollment = nil
	devices.Bind("present", roster.Keys{Current: "key"})
	if _, err := devices.Connected("present", roster.Connection{ID: 1, Session: "00000000000000a1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := devices.Snapshot("present", "00000000000000a1", roster.Claim{Epoch: "epoch"}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		device *v1alpha1.Device
		waits  bool
	}{
		{enrolled("now", 0), true}, {enrolled("soon", 9*time.Second), true}, {enrolled("late", 11*time.Second), false},
		{enrolled("set-back", -time.Hour), false}, {written, false}, {prepared, false}, {enrolled("present", 0), false},
	} {
		if wait := controller.Arrives(tc.device); wait > 0 != tc.waits || wait > 10*time.Second {
			t.Errorf("%s waits for %s", tc.device.Name, wait)
		}
	}
}

// Whoever changes the labels that the server sets does not keep them changed. A
// device that has reported nothing keeps what an earlier report gave it.
func TestLabelsOfTheServerAreRestored(t *testing.T) {
	t.Parallel()
	for _, key := range []string{v1alpha1.LabelShortDeviceID, v1alpha1.LabelDeviceID, v1alpha1.LabelOS} {
		for _, reports := range []bool{false, true} {
			api := &oneDevice{version: 1}
			controller, _, _ := controllerOf(t, api)
			if reports {
				controller.Report("edge-1", wire.DeviceInfo{Inventory: wire.Inventory{Arch: "amd64"}})
				if _, err := controller.WriteReport(t.Context(), api.object()); err != nil {
					t.Fatal(err)
				}
			}
			before := len(api.accepted)
			if changed, err := controller.WriteReport(t.Context(), api.object()); err != nil || changed || len(api.accepted) != before {
				t.Errorf("%s, reports %v: what is right is written: %v", key, reports, err)
			}
			api.wrong = map[string]string{key: "edge-2"}
			if changed, err := controller.WriteReport(t.Context(), api.object()); err != nil || !changed || len(api.accepted) != before+1 {
				t.Fatalf("%s, reports %v: it is not written: %v", key, reports, err)
			}
			patch := api.accepted[before]
			want := map[string]string{v1alpha1.LabelShortDeviceID: "edge-1", v1alpha1.LabelDeviceID: "edge-1", v1alpha1.LabelOS: "linux"}[key]
			if got := patch["metadata"].(map[string]any)["labels"].(map[string]any)[key]; got != want {
				t.Errorf("%s, reports %v: it becomes %v", key, reports, got)
			}
			if _, has := patch["spec"]; has != reports {
				t.Errorf("%s, reports %v: the patch is %v", key, reports, patch)
			}
		}
	}
}
