package driver_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const app = "localhost/app:1"

// The ids of the account and its containers in these tests.
const accountID, firstSubID, dialout = 997, 100_000, 20

// apply does what a service asks for, with a few of its fields, and returns the first error.
func apply(t *testing.T, fake *containertest.Fake, policy bind.Policy, fields string) error {
	t.Helper()
	_, _, err := start(t, fake, policy, fields)
	return err
}

// start is apply, and also returns what it did that with.
func start(t *testing.T, fake *containertest.Fake, policy bind.Policy, fields string) (*driver.Driver, workload.Workload, error) {
	t.Helper()
	d := driver.New(driver.Config{Runtime: fake, Binds: policy, Log: slog.New(slog.DiscardHandler)})
	ref := wire.DeploymentRef{Namespace: "shop", Name: "web"}
	w, err := d.Parse(ref, score.TypePodmanV0, fmt.Appendf(nil, `{"services":[{"name":"web","image":%q%s}]}`, app, fields))
	if err != nil {
		t.Fatal(err)
	}
	_, readyErr := d.Ready(t.Context())
	instance, err := d.Observe(t.Context(), ref)
	if err = errors.Join(readyErr, err); err != nil {
		t.Fatal(err)
	}
	p, err := instance.Plan(t.Context(), w, false)
	for _, step := range p.Steps {
		if err == nil {
			err = step.Do(t.Context())
		}
	}
	return d, w, err
}

// expect checks an error against a text that it has; empty for no error.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	case err != nil && strings.Contains(err.Error(), "\n"):
		t.Errorf("%q is more than a line", err)
	}
}

func TestImagesOfOtherArchitectures(t *testing.T) {
	t.Parallel()
	other := map[string]string{"amd64": "arm64", "arm64": "riscv64"}[runtime.GOARCH]
	handler := "/proc/sys/fs/binfmt_misc/" + map[string]string{"arm64": "qemu-aarch64", "riscv64": "qemu-riscv64"}[other]
	for name, tt := range map[string]struct {
		arch string
		look func([]string) (trail.Trail, error)
		want string
	}{
		"this one":               {arch: runtime.GOARCH},
		"another one":            {arch: other, look: looking(nil), want: fmt.Sprintf("service web: image %q is for %s, and this device is %s: name one", app, other, runtime.GOARCH)},
		"another one that runs":  {arch: other, look: looking(map[string]trail.Entry{handler: {Mode: 0o100644}})},
		"nobody looks":           {arch: other, look: func([]string) (trail.Trail, error) { return nil, errors.New("away") }},
		"one that nobody knows":  {arch: "pdp11", look: looking(nil)},
		"the kind of this one":   {arch: map[string]string{"amd64": "386", "arm64": "arm"}[runtime.GOARCH], look: looking(nil)},
		"the control is another": {arch: "s390x", look: looking(nil), want: "is for s390x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := containertest.NewFake(app)
			fake.Build(app, tt.arch, "")
			expect(t, apply(t, fake, bind.Policy{Look: tt.look}, ""), tt.want)
		})
	}
}

// looking sees some entries, and directories on the way to them.
func looking(entries map[string]trail.Entry) func([]string) (trail.Trail, error) {
	return func(paths []string) (trail.Trail, error) {
		seen := trail.Trail{"/": {Mode: 0o040755}}
		for _, path := range paths {
			for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
				seen[dir] = trail.Entry{Mode: 0o040755}
			}
		}
		for _, path := range paths {
			if e, ok := entries[path]; ok {
				seen[path] = e
			} else if _, ok := seen[path]; !ok {
				seen[path] = trail.Entry{Fault: trail.Absent}
			}
		}
		return seen, nil
	}
}

// TestUsersOfImages: the id of a user in a container is another one on the device. What
// might work is tried.
func TestUsersOfImages(t *testing.T) {
	t.Parallel()
	const dir, device = 0o040000, 0o020000
	const subID = firstSubID + 1000 - 1
	for name, tt := range map[string]struct {
		user     string
		entry    trail.Entry
		readOnly bool
		want     string
	}{
		"given to the number":               {user: "1000", entry: trail.Entry{Mode: dir | 0o755, UID: 1000, GID: 1000}, want: "service web: hostPath /srv/x: user 1000 of the image is uid 100999 on this device and may not write there, which has mode 0755, uid 1000 and gid 1000: chown -R 100999 /srv/x, or set readOnly"},
		"that and a group":                  {user: "1000:1000", entry: trail.Entry{Mode: dir | 0o755, UID: 1000, GID: 1000}, want: "chown -R 100999 /srv/x"},
		"that, and only to be read":         {user: "1000", entry: trail.Entry{Mode: dir | 0o755, UID: 1000}, readOnly: true},
		"that, and all may write":           {user: "1000", entry: trail.Entry{Mode: dir | 0o777, UID: 1000}},
		"given to the id on the device":     {user: "1000", entry: trail.Entry{Mode: dir | 0o700, UID: subID, GID: subID}},
		"closed":                            {user: "1000", entry: trail.Entry{Mode: dir | 0o700}, want: "may not enter it, which has mode 0700, uid 0 and gid 0: chown -R 100999 /srv/x"},
		"closed to a user by name":          {user: "node", entry: trail.Entry{Mode: dir | 0o700}},
		"closed, perhaps not to its group":  {user: "1000", entry: trail.Entry{Mode: dir | 0o750, GID: firstSubID}},
		"closed, and its group is no one's": {user: "1000", entry: trail.Entry{Mode: dir | 0o750, GID: dialout}, want: "may not enter it"},
		"closed, perhaps not by a list":     {user: "1000", entry: trail.Entry{Mode: dir | 0o750, ACL: true}},
		"root's of the device":              {user: "1000", entry: trail.Entry{Mode: dir | 0o755}}, // a user may be about to read alone
		"a file":                            {user: "1000", entry: trail.Entry{Mode: 0o100600}, want: "may not read it"},
		"an id that no container has":       {user: "70000", entry: trail.Entry{Mode: dir | 0o700}},
		"root":                              {entry: trail.Entry{Mode: dir | 0o700, UID: accountID, GID: accountID}},
		"root, of a user's":                 {entry: trail.Entry{Mode: dir | 0o700, UID: subID, GID: subID}},
		"root, of root's of the device":     {user: "0", entry: trail.Entry{Mode: dir | 0o700}, want: "user 0 of the image is uid 997 on this device and may not enter it"},
		"a device of a group":               {entry: trail.Entry{Mode: device | 0o660, GID: dialout}, want: `may not read it, which has mode 0660, uid 0 and gid 20: a rule of udev has to set OWNER="997"`},
		"a device of all":                   {entry: trail.Entry{Mode: device | 0o666, GID: dialout}},
		"a device of the account":           {entry: trail.Entry{Mode: device | 0o660, GID: accountID}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := containertest.NewFake(app)
			fake.Build(app, "", tt.user)
			policy := bind.Policy{Roots: []string{"/srv"}, Look: looking(map[string]trail.Entry{"/srv/x": tt.entry}), Workload: ids}
			err := apply(t, fake, policy, fmt.Sprintf(`,"volumes":[{"hostPath":"/srv/x","mountPath":"/x","readOnly":%t}]`, tt.readOnly))
			expect(t, err, tt.want)
			if calls := fake.Calls(); (len(calls) == 0) != (tt.want != "") {
				t.Errorf("calls are %v", calls)
			}
		})
	}
}

// TestAHint: what might work is tried, and if it does not work, what may be why is said.
func TestAHint(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mode     uint32
		readOnly bool
		says     string
		want     string
	}{
		"says so":       {mode: 0o755, says: "mkdir: Permission denied", want: "service web: exited with code 1, last output: mkdir: Permission denied; perhaps because of hostPath /srv/x: user 1000 of the image is uid 100999 on this device and may not write there, which has mode 0755, uid 0 and gid 0: chown -R 100999 /srv/x, or set readOnly"},
		"says another":  {mode: 0o755, says: "no such host: db", want: "service web: exited with code 1, last output: no such host: db"},
		"may not write": {mode: 0o755, want: "service web: exited with code 1; perhaps because of hostPath /srv/x: user 1000 of the image is uid 100999 on this device and may not write there, which has mode 0755, uid 0 and gid 0: chown -R 100999 /srv/x, or set readOnly"},
		"may write":     {mode: 0o777, want: "service web: exited with code 1"},
		"need not":      {mode: 0o755, readOnly: true, want: "service web: exited with code 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := containertest.NewFake(app)
			fake.Build(app, "", "1000")
			policy := bind.Policy{Roots: []string{"/srv"}, Look: looking(map[string]trail.Entry{"/srv/x": {Mode: 0o040000 | tt.mode}}), Workload: ids}
			d, w, err := start(t, fake, policy, fmt.Sprintf(`,"volumes":[{"hostPath":"/srv/x","mountPath":"/x","readOnly":%t}]`, tt.readOnly))
			if err != nil {
				t.Fatal(err)
			}
			fake.Says("shop_web_web", tt.says)
			fake.Exit("shop_web_web", 1)
			instance, err := d.Observe(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if got := instance.State(w, time.Now()).Error; got != tt.want {
				t.Errorf("got %q", got)
			}
		})
	}
}

func ids() *bind.IDs {
	return &bind.IDs{
		UIDs: []bind.Range{{First: accountID, Count: 1}, {First: firstSubID, Count: 65_536}},
		GIDs: []bind.Range{{First: accountID, Count: 1}, {First: firstSubID, Count: 65_536}, {First: dialout, Count: 1}},
	}
}

// TestOneLookForAWorkload: the helper is asked once about all that a Deployment mounts.
func TestOneLookForAWorkload(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("the directories above a mount must be root's")
	}
	var asked [][]string
	policy := bind.Policy{Roots: []string{"/usr", "/etc"}, Look: func(paths []string) (trail.Trail, error) {
		asked = append(asked, paths)
		return trail.Walk(paths), nil
	}}
	d := driver.New(driver.Config{Runtime: containertest.NewFake(app), Binds: policy, Log: slog.New(slog.DiscardHandler)})
	ref := wire.DeploymentRef{Namespace: "shop", Name: "web"}
	const service = `{"name":%q,"image":"localhost/app:1","volumes":[{"hostPath":"/usr/share","mountPath":"/a"},{"hostPath":"/etc","mountPath":"/b"}]}`
	w, err := d.Parse(ref, score.TypePodmanV0, fmt.Appendf(nil, `{"services":[`+service+`,`+service+`]}`, "one", "two"))
	if err != nil {
		t.Fatal(err)
	}
	instance, err := d.Observe(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := instance.Plan(t.Context(), w, false); err != nil || len(asked) != 1 {
		t.Errorf("asked %d times: %v, %v", len(asked), asked, err)
	}
}
