package assigner_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
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

// A device may ask for bodies that never were: for each manifest, every revision is read and
// rendered once for that.
func TestADeviceThatAsksForWhatNeverWas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	web := deploymentObject("web", "a")
	const score = `{"services":[{"name":"web","image":"localhost/web:%d","env":[{"name":"NAME","value":"${device.name}"}]}]}`
	var entries []wire.Entry
	for n := range 4 {
		web = web.DeepCopy()
		web.Generation, web.Spec.Score.Data.Raw = int64(n+1), fmt.Appendf(nil, score, n)
		if n == 0 {
			r.deployments.Add(web)
			r.startAll()
		} else {
			r.deployments.Modify(web)
		}
		entries = append(entries, r.entryThat(func(e wire.Entry) bool {
			return e.Revision != "" && (n == 0 || e.Revision != entries[n-1].Revision)
		}))
	}
	r.history.mu.Lock()
	r.history.bodies[wire.Sum([]byte("plain")).String()] = []byte(`{"type":"PodmanV0","data":{"services":[{"name":"web","image":"localhost/web:1"}]}}`)
	r.history.reads = 0
	r.history.mu.Unlock()
	reads := func(most int) {
		t.Helper()
		r.history.mu.Lock()
		defer r.history.mu.Unlock()
		if r.history.reads > most {
			t.Errorf("%d revisions were read, want at most %d", r.history.reads, most)
		}
		r.history.reads = 0
	}
	const asked = 100
	for n := range asked {
		hash := wire.Sum(fmt.Append(nil, n)).String()
		if body, ok := r.EarlierBody(t.Context(), "edge-1", hash); ok {
			t.Fatalf("what never was is %q", body)
		}
	}
	reads(asked + 5) // each asks for a revision of that name, which costs nothing
	for range 2 {
		for _, e := range entries[:3] {
			body, ok := r.EarlierBody(t.Context(), "edge-1", e.Hash)
			if !ok || wire.Sum(body).String() != e.Hash {
				t.Errorf("what was is %q", body)
			}
			if body, ok := r.EarlierBody(t.Context(), "edge-1", e.Revision); ok {
				t.Errorf("the template is %q", body)
			}
		}
	}
	reads(6)
	late, cancel := context.WithCancel(t.Context())
	cancel()
	r.deployments.Modify(func() *v1alpha1.Deployment {
		web = web.DeepCopy()
		web.Generation, web.Spec.Score.Data.Raw = 9, fmt.Appendf(nil, score, 9)
		return web
	}())
	last := r.entryThat(func(e wire.Entry) bool { return e.Revision != "" && e.Revision != entries[3].Revision })
	if last.Hash == entries[3].Hash {
		t.Fatal("nothing changed")
	}
	for _, ask := range []struct {
		ctx  context.Context
		want bool
	}{{late, false}, {t.Context(), true}} { // what was interrupted goes on
		if _, ok := r.EarlierBody(ask.ctx, "edge-1", entries[3].Hash); ok != ask.want {
			t.Errorf("with %v, the earlier body is there: %t", ask.ctx.Err(), ok)
		}
	}
}

// A template that an earlier version of the server accepted, and this one would not, is given to
// nobody as it is.
func TestATemplateThatIsNotValidNow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.deployments.Add(deploymentObject("web", "a"))
	r.startAll()
	r.keys("edge-1.shop.web")
	for what, tc := range map[string]struct {
		body  string
		given bool
	}{
		"a template":          {`{"type":"PodmanV0","data":{"services":[{"name":"web","image":"localhost/${device.name}"}]}}`, false},
		"what is the same":    {`{"type":"PodmanV0","data":{"services":[{"name":"web","image":"localhost/web:7"}]}}`, true},
		"an unknown type":     {`{"type":"example.com/x","data":{"text":"${device.name}"}}`, true},
		"what is no document": {`{"type":"PodmanV0","data":"${device.name}"`, false},
	} {
		hash := wire.Sum([]byte(tc.body)).String()
		r.history.mu.Lock()
		r.history.bodies[hash] = []byte(tc.body)
		r.history.mu.Unlock()
		for range 2 {
			if body, ok := r.EarlierBody(t.Context(), "edge-1", hash); ok != tc.given {
				t.Errorf("%s: %q, %t", what, body, ok)
			}
		}
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
