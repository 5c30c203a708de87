package assigner_test

import (
	"errors"
	"fmt"
	"testing"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A device that asks for what was rendered for it earlier gets it while its revision is kept and its
// values are the same; nobody gets the template.
func TestEarlierRenderings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	device := deviceObject("edge-1", "a")
	device.Annotations = map[string]string{"site": "plant-1"}
	r.devices.Add(device)
	other := deviceObject("edge-2", "a")
	other.Annotations = map[string]string{"site": "plant-2"}
	r.devices.Add(other)
	web := deploymentObject("web", "a")
	const score = `{"services":[{"name":"web","image":"localhost/web:%d","env":[{"name":"SITE","value":"${device.annotations.site}"}]}]}`
	web.Spec.Score.Data.Raw = fmt.Appendf(nil, score, 1)
	r.deployments.Add(web)
	r.startAll()
	first := r.entryThat(func(e wire.Entry) bool { return e.Revision != "" })
	body, ok := r.Body("edge-1", first.Hash)
	if !ok || wire.Sum(body).String() != first.Hash {
		t.Fatalf("the body is %q", body)
	}
	changed := web.DeepCopy()
	changed.Generation, changed.Spec.Score.Data.Raw = 2, fmt.Appendf(nil, score, 2)
	r.deployments.Modify(changed)
	second := r.entryThat(func(e wire.Entry) bool { return e.Revision != "" && e.Revision != first.Revision })
	if _, ok := r.Body("edge-1", first.Hash); ok {
		t.Error("the manifest names the earlier body")
	}
	for range 2 { // the second time from memory
		if got, ok := r.EarlierBody(t.Context(), "edge-1", first.Hash); !ok || string(got) != string(body) {
			t.Errorf("the earlier body is %q", got)
		}
	}
	for what, ask := range map[string]struct{ device, hash string }{
		"another device with other values": {"edge-2", first.Hash},
		"the template":                     {"edge-1", first.Revision},
		"the present template":             {"edge-1", second.Revision},
		"what never was":                   {"edge-1", wire.Sum([]byte("never")).String()},
	} {
		if got, ok := r.EarlierBody(t.Context(), ask.device, ask.hash); ok {
			t.Errorf("%s: %q", what, got)
		}
	}
	moved := device.DeepCopy()
	moved.Annotations["site"] = "plant-3"
	r.devices.Modify(moved)
	r.entryThat(func(e wire.Entry) bool { return e.Revision == second.Revision && e.Hash != second.Hash })
	if got, ok := r.EarlierBody(t.Context(), "edge-1", second.Hash); ok {
		t.Errorf("with other values, what was rendered before is %q", got)
	}
}

// entryThat waits for an entry of edge-1.
func (r *rig) entryThat(is func(wire.Entry) bool) (found wire.Entry) {
	r.t.Helper()
	brokertest.Eventually(r.t, "the entry", func() error {
		m, err := r.Manifest("edge-1")
		if err != nil {
			return err
		}
		for _, e := range m.Entries {
			if found = e; is(e) {
				return nil
			}
		}
		return errors.New("there is none")
	})
	return found
}
