package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// A device reports that a Deployment runs.
func ExampleDeploymentState() {
	report := wire.DeploymentState{
		DeploymentRef: wire.DeploymentRef{Namespace: "plant", Name: "press"},
		Phase:         wire.PhaseRunning,
		Hash:          wire.Sum([]byte(`{"data":{},"type":"PodmanV0"}`)).String(),
		Containers:    []wire.ContainerState{{Service: "web", State: "running", Image: "docker.io/library/nginx:1.29"}},
		LastEventAt:   time.Date(2026, time.November, 28, 8, 0, 0, 0, time.UTC),
	}
	payload, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(payload))
	// Output:
	// {
	//   "namespace": "plant",
	//   "name": "press",
	//   "phase": "Running",
	//   "hash": "9589f2898d2b58d8df1c36ae38b43d120f5c6138bf3559f950c718e76e17b438",
	//   "containers": [
	//     {
	//       "service": "web",
	//       "state": "running",
	//       "image": "docker.io/library/nginx:1.29"
	//     }
	//   ],
	//   "lastEventAt": "2026-11-28T08:00:00Z"
	// }
}

// A tool reads what a device reported out of bucket device-state. The payload comes
// from a device: it is checked, and its texts are made safe for a terminal.
func ExampleDecodeState() {
	payload := []byte(`{"namespace":"plant","name":"press","phase":"Failed","error":"pulling image: \u001b[31mno such host"}`)
	report, err := wire.DecodeState(payload)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(report.DeploymentRef, report.Phase, report.Printable().Error)

	_, err = wire.DecodeState([]byte(`{"namespace":"plant","name":"press","phase":"Perhaps"}`))
	fmt.Println(errors.Is(err, wire.ErrPayload), err)
	// Output:
	// plant/press Failed pulling image: \u001b[31mno such host
	// true malformed payload: unknown phase "Perhaps"
}

// Whoever watches the bus learns from a subject which device sent what.
func ExampleParseUpSubject() {
	device, kind, err := wire.ParseUpSubject("fleet.v1.up.press-7.state")
	fmt.Println(device, kind, err)

	device, kind, err = wire.ParseUpSubject("fleet.v1.up.press-7.reboot")
	fmt.Println(device, kind, err)

	_, _, err = wire.ParseUpSubject("fleet.v1.up.press-7")
	fmt.Println(errors.Is(err, wire.ErrSubject), err)
	// Output:
	// press-7 state <nil>
	// press-7 unknown <nil>
	// true malformed subject "fleet.v1.up.press-7"
}

func ExampleUpSubject() {
	subject, err := wire.UpSubject("press-7", wire.KindHeartbeat)
	fmt.Println(subject, err)
	// Output: fleet.v1.up.press-7.heartbeat <nil>
}

// The keys of the buckets say which device and which Deployment a value is of.
func ExampleParseStateKey() {
	key, err := wire.StateKey("press-7", wire.DeploymentRef{Namespace: "plant", Name: "press"})
	if err != nil {
		fmt.Println(err)
		return
	}
	device, ref, err := wire.ParseStateKey(key)
	fmt.Println(key, "is of", device, "and", ref, err)
	// Output: state.press-7.plant.press is of press-7 and plant/press <nil>
}

// An agent removes what a manifest omits only if that is of the same store and
// comes after the one that it has.
func ExampleVersion_Newer() {
	have := wire.Version{Epoch: "a1", Term: 3, Seq: 17}
	for _, v := range []wire.Version{
		{Epoch: "a1", Term: 3, Seq: 18},
		{Epoch: "a1", Term: 4, Seq: 1},
		{Epoch: "a1", Term: 2, Seq: 99},
		{Epoch: "b2", Term: 9, Seq: 1}, // a restored backup
	} {
		fmt.Println(v, v.Newer(have))
	}
	// Output:
	// a1/3/18 true
	// a1/4/1 true
	// a1/2/99 false
	// b2/9/1 false
}

func ExampleManifest_Find() {
	m := wire.Manifest{
		Version: wire.Version{Epoch: "a1", Term: 1, Seq: 1}, Complete: true,
		Entries: []wire.Entry{{
			DeploymentRef: wire.DeploymentRef{Namespace: "plant", Name: "press"},
			Type:          "PodmanV0", Hash: wire.Sum([]byte("{}")).String(), Size: 2,
		}},
	}
	fmt.Println("valid:", m.Validate() == nil)
	entry, found := m.Find(wire.DeploymentRef{Namespace: "plant", Name: "press"})
	fmt.Println(entry.Type, found)
	_, found = m.Find(wire.DeploymentRef{Namespace: "plant", Name: "saw"})
	fmt.Println(found)
	// Output:
	// valid: true
	// PodmanV0 true
	// false
}

// An operator types what the device shows; the server has the whole fingerprint.
func ExampleParseFingerprint() {
	full := wire.Sum([]byte("a public key")).String()
	shown := wire.ShowFingerprint(full)
	fmt.Println(shown)
	digits, err := wire.ParseFingerprint(shown)
	fmt.Println(wire.MatchFingerprint(full, digits), err)
	// Output:
	// 0b73-48fa-0389-70c4-8ec0-7cd7-3b62-57f3
	// true <nil>
}

// What an agent cannot do is not asked of it.
func ExampleMissing() {
	can := wire.ParseCapabilities([]string{"score/PodmanV0"})
	fmt.Println(wire.Missing(can, []wire.Capability{wire.CanPodmanV0}))
	fmt.Println(wire.Missing(can, []wire.Capability{wire.CanRun("ComposeV1")}))
	// Output:
	// []
	// [score/ComposeV1]
}
