package images_test

import (
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/images"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is what a device keeps, and its clock.
type disk struct {
	data []byte
	at   runs.Moment
}

func (d *disk) Load(v any) bool { return json.Unmarshal(d.data, v) == nil }

func (d *disk) Save(v any) (err error) {
	d.data, err = json.Marshal(v)
	return err
}

func (d *disk) book() *images.Book {
	return images.New(d, func() runs.Moment { return d.at }, slog.New(slog.DiscardHandler))
}

func newDisk() *disk { return &disk{at: runs.Moment{Boot: "first", Uptime: time.Minute}} }

// ids of candidates, and for how long they are unneeded.
func ids(candidates []images.Candidate) map[string]time.Duration {
	found := map[string]time.Duration{}
	for _, c := range candidates {
		found[c.ID] = c.Unneeded
	}
	return found
}

const app, other = "registry.example.com/app:1", "registry.example.com/other:1"

func TestOnlyWhatTheAgentPulledMayGo(t *testing.T) {
	t.Parallel()
	d := newDisk()
	b := d.book()
	b.Pull(app)
	all := []container.StoredImage{{ID: "a", Names: []string{app}}, {ID: "b", Names: []string{other}}}
	if got := b.See(all, []string{app, other}); len(got) > 0 {
		t.Errorf("what is needed may go: %+v", got)
	}
	d.at.Uptime += time.Minute
	if diff := cmp.Diff(map[string]time.Duration{"a": time.Minute}, ids(b.See(all, nil))); diff != "" {
		t.Error(diff)
	}
	for what, image := range map[string]container.StoredImage{
		"a container":           {ID: "a", Names: []string{app}, Used: true},
		"another name":          {ID: "a", Names: []string{app, "localhost/mine:1"}},
		"only another name":     {ID: "a", Names: []string{"localhost/mine:1"}},
		"the same name, pulled": {ID: "c", Names: []string{app}}, // by somebody, after ours was removed
	} {
		copied := *d
		if got := copied.book().See([]container.StoredImage{image}, nil); len(got) > 0 {
			t.Errorf("%s: it may go: %+v", what, got)
		}
	}
	unnamed := []container.StoredImage{{ID: "a"}, {ID: "c", Names: []string{app}}} // the name is another's now
	d = newDisk()
	b = d.book()
	b.Pull(app)
	b.See(all, []string{app})
	if diff := cmp.Diff(map[string]time.Duration{"a": 0}, ids(b.See(unnamed, []string{app}))); diff != "" {
		t.Error(diff)
	}
}

// A power cut at any moment of a pull leaves an image that is known.
func TestAPullThatWasCutOff(t *testing.T) {
	t.Parallel()
	d := newDisk()
	d.book().Pull(app)
	d.book().See(nil, []string{app}) // it goes on in the runtime
	d.book().See([]container.StoredImage{{ID: "a", Names: []string{app}}}, []string{app})
	if got := ids(d.book().See([]container.StoredImage{{ID: "a", Names: []string{app}}}, nil)); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	d = newDisk()
	d.book().Pull(app)
	d.book().See(nil, nil) // it failed, and nothing wants it any more
	if got := ids(d.book().See([]container.StoredImage{{ID: "a", Names: []string{app}}}, nil)); len(got) > 0 {
		t.Errorf("what somebody pulled later may go: %v", got)
	}
}

func TestDigests(t *testing.T) {
	t.Parallel()
	d := newDisk()
	b := d.book()
	const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	b.Pull("registry.example.com/app:1" + digest)
	image := container.StoredImage{ID: "a", Digests: []string{"registry.example.com/app" + digest}}
	if got := b.See([]container.StoredImage{image}, []string{images.Canonical("registry.example.com/app:1" + digest)}); len(got) > 0 {
		t.Errorf("what is needed may go: %+v", got)
	}
	if got := b.See([]container.StoredImage{image}, nil); len(got) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"localhost/app":               "localhost/app:latest",
		"localhost:5000/app":          "localhost:5000/app:latest",
		"localhost:5000/app:1":        "localhost:5000/app:1",
		"[::1]:5000/a/b":              "[::1]:5000/a/b:latest",
		"localhost/app@sha256:00":     "localhost/app@sha256:00",
		"localhost:1/app:1@sha256:00": "localhost:1/app@sha256:00",
	} {
		if got := images.Canonical(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// No order of looks, restarts, sleeps and reboots makes an image older than the time that
// was seen, nor a candidate of what is needed.
func TestTimeThatWasSeenCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDisk()
		b := d.book()
		b.Pull(app)
		var seen time.Duration
		image := []container.StoredImage{{ID: "a", Names: []string{app}}}
		b.See(image, []string{app})
		looked := true
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			pause := time.Duration(rapid.IntRange(0, 100_000).Draw(t, "pause")) * time.Second
			switch rapid.SampledFrom([]string{"look", "look", "look", "need", "restart", "reboot"}).Draw(t, "step") {
			case "look":
				d.at.Uptime += pause
				if looked {
					seen += pause
				}
				got := b.See(image, nil)
				if len(got) != 1 || got[0].Unneeded > seen {
					t.Fatalf("after %v that were seen: %+v", seen, got)
				}
				looked = true
			case "need":
				d.at.Uptime += pause
				if got := b.See(image, []string{app}); len(got) > 0 {
					t.Fatalf("what is needed may go: %+v", got)
				}
				seen, looked = 0, true
			case "restart":
				d.at.Uptime += pause
				b, looked = d.book(), false
			case "reboot":
				d.at = runs.Moment{Boot: d.at.Boot + "+", Uptime: pause}
				b, looked = d.book(), false
			}
		}
	})
}

func TestTheLongestUnneededComesFirst(t *testing.T) {
	t.Parallel()
	d := newDisk()
	b := d.book()
	b.Pull(app)
	b.Pull(other)
	all := []container.StoredImage{{ID: "a", Names: []string{app}}, {ID: "b", Names: []string{other}}}
	b.See(all, []string{app})
	for range 3 {
		d.at.Uptime += 10 * time.Minute
		b.See(all, []string{app})
	}
	var order []string
	for _, c := range b.See(all, nil) {
		order = append(order, c.ID)
	}
	if !slices.Equal(order, []string{"b", "a"}) {
		t.Errorf("the order is %v", order)
	}
	for range 7 { // seven steps of ten minutes: an hour was saved
		d.at.Uptime += 10 * time.Minute
		b.See(all, nil)
	}
	if got := ids(d.book().See(all, nil)); got["b"] < time.Hour {
		t.Errorf("after a restart %v", got)
	}
}
