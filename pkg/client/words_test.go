package client_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
)

// stored is a Device as a store has it.
func stored(name string) []byte {
	conditions := make([]string, 0, 15)
	for i := range cap(conditions) {
		conditions = append(conditions, fmt.Sprintf(`{"type":"Condition%d","status":"True","reason":"Reason%d","message":"message number %d of a device","lastTransitionTime":"2026-11-29T10:11:12Z"}`, i, i, i))
	}
	return fmt.Appendf(nil, `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Device","metadata":{"name":%q,"finalizers":["fleet.nationtech.io/device"],
	  "labels":{"device-id":%q,"fleet.nationtech.io/device-id":%q,"kubernetes.io/arch":"amd64","site":"a"},"managedFields":[{"manager":"fleet-device"}]},
	  "spec":{"onRevoke":"Keep","inventory":{"hostname":%q,"arch":"amd64","os":"debian","osVersion":"13","kernel":"6.12","agentVersion":"0.1.0","podmanVersion":"5.4.2"},
	  "enrollment":{"keyFingerprint":%q,"token":"abcdefgh","allowedLabelKeys":["site"]}},
	  "status":{"observedGeneration":1,"capabilities":["a","b"],"nonce":{"epoch":"57891f6d","issuedAt":"2026-11-29T10:11:12Z"},"conditions":[%s]}}`,
		name, name, name, name, strings.Repeat("a", 64), strings.Join(conditions, ","))
}

func decoded(t testing.TB, name string) *v1alpha1.Device {
	t.Helper()
	d, err := client.DecodeStoredDevice(1, stored(name))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sharedOf are the strings of a Device that others have as well.
func sharedOf(d *v1alpha1.Device) map[string]string {
	shared := map[string]string{
		"kind": d.Kind, "arch": d.Spec.Inventory.Arch, "token": d.Spec.Enrollment.Token, "allowed": d.Spec.Enrollment.AllowedLabelKeys[0],
		"finalizer": d.Finalizers[0], "capability": d.Status.Capabilities[1], "epoch": d.Status.Nonce.Epoch, "site": d.Labels["site"], "policy": string(d.Spec.OnRevoke),
	}
	for key := range d.Labels {
		shared["key "+key] = key
	}
	for _, c := range d.Status.Conditions {
		shared[c.Type], shared[c.Type+" reason"], shared[c.Type+" message"], shared[c.Type+" status"] = c.Type, c.Reason, c.Message, string(c.Status)
	}
	return shared
}

// Devices of an informer are as they were, and have the strings together that they have
// in common.
func TestDevicesShareStrings(t *testing.T) {
	t.Parallel()
	compact, _ := client.CompactDevices()
	var devices []*v1alpha1.Device
	for _, name := range []string{"one", "two"} {
		d := decoded(t, name)
		o, err := compact(d)
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, o.(*v1alpha1.Device))
		if diff := cmp.Diff(decoded(t, name), devices[len(devices)-1]); diff != "" {
			t.Error(diff)
		}
		if value := d.Labels["device-id"]; unsafe.StringData(value) != unsafe.StringData(d.Name) {
			t.Error("the label has a name of its own")
		}
	}
	one, two := sharedOf(devices[0]), sharedOf(devices[1])
	for what, s := range one {
		if unsafe.StringData(s) != unsafe.StringData(two[what]) {
			t.Errorf("%s: each has its own %q", what, s)
		}
	}
}

// However many strings there are, a bounded number is remembered.
func TestFewStringsAreRemembered(t *testing.T) {
	t.Parallel()
	compact, remembered := client.CompactDevices()
	for i := range client.MaxWords * 2 {
		if _, err := compact(&v1alpha1.Device{Spec: v1alpha1.DeviceSpec{OnRevoke: v1alpha1.RevocationPolicy(fmt.Sprint(i))}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := remembered(); n > client.MaxWords {
		t.Errorf("%d strings are remembered", n)
	}
	d, e := decoded(t, "one"), decoded(t, "two")
	_, _ = compact(d) // it returns no error of a Device
	_, _ = compact(e)
	if unsafe.StringData(d.Spec.Enrollment.Token) != unsafe.StringData(e.Spec.Enrollment.Token) {
		t.Error("nothing is shared any more")
	}
}

// BenchmarkDeviceOfInformer tells what a Device takes in memory.
func BenchmarkDeviceOfInformer(b *testing.B) {
	shared, _ := client.CompactDevices()
	for name, transform := range map[string]func(any) (any, error){
		"own strings": func(o any) (any, error) { return o, nil }, "shared strings": shared,
	} {
		b.Run(name, func(b *testing.B) {
			devices := make([]any, b.N)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for i := range devices {
				devices[i], _ = transform(decoded(b, fmt.Sprintf("device-%d", i)))
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N), "B/device")
			runtime.KeepAlive(devices)
		})
	}
}

// Devices of an informer have what the server applied of their reports, whether they come
// from the store or from the API, and those that reported the same labels share it.
func TestManagedFieldsOfReports(t *testing.T) {
	t.Parallel()
	const (
		fields = `{"f:metadata":{"f:labels":{"f:group":{}}},"f:spec":{"f:inventory":{"f:arch":{}}}}`
		mine   = `{"apiVersion":"v","fieldsType":"FieldsV1","fieldsV1":` + fields + `,"manager":"fleet-device","operation":"Apply","time":"2026-11-29T10:11:12Z"}`
		status = `{"apiVersion":"v","fieldsType":"FieldsV1","fieldsV1":{"f:status":{}},"manager":"fleet-device","operation":"Apply","subresource":"status","time":"2026-11-29T10:11:12Z"}`
		update = `{"apiVersion":"v","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{}},"manager":"fleet-device","operation":"Update"}`
		theirs = `{"apiVersion":"v","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{}},"manager":"kubectl","operation":"Apply"}`
		loose  = `{"manager": "fleet-device", "operation": "Apply", "fieldsV1": ` + fields + `}`
	)
	for name, tc := range map[string]struct {
		stored string
		want   string
	}{
		"none":                   {`[]`, ""},
		"null":                   {`null`, ""},
		"applied":                {`[` + mine + `]`, fields},
		"the last":               {`[` + update + `,` + theirs + `,` + status + `,` + mine + `]`, fields},
		"the first":              {`[` + mine + `,` + status + `]`, fields},
		"of the status alone":    {`[` + status + `]`, ""},
		"updated":                {`[` + update + `]`, ""},
		"of others":              {`[` + theirs + `]`, ""},
		"written by other tools": {`[` + theirs + `,` + loose + `]`, fields},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			document := `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Device","metadata":{"name":"edge-1","managedFields":` + tc.stored + `},"spec":{"onRevoke":"Keep"},"status":{}}`
			compact, _ := client.CompactDevices()
			fromStore, err := client.DecodeStoredDevice(1, []byte(document))
			if err != nil {
				t.Fatal(err)
			}
			if got := textOf(fromStore); got != tc.want {
				t.Errorf("of the store: %s", got)
			}
			var fromAPI v1alpha1.Device
			if err := json.Unmarshal([]byte(document), &fromAPI); err != nil {
				t.Fatal(err)
			}
			for _, d := range []*v1alpha1.Device{fromStore, &fromAPI} {
				if _, err := compact(d); err != nil || textOf(d) != tc.want {
					t.Errorf("of an informer: %s, %v", textOf(d), err)
				}
			}
			if tc.want != "" && &fromStore.ManagedFields[0] != &fromAPI.ManagedFields[0] {
				t.Error("each has its own")
			}
		})
	}
}

// textOf are the managed fields of a Device of an informer, which has one entry at most.
func textOf(d *v1alpha1.Device) string {
	switch len(d.ManagedFields) {
	case 0:
		return ""
	case 1:
		return d.ManagedFields[0].FieldsV1.GetRawString()
	}
	return fmt.Sprint(d.ManagedFields)
}
