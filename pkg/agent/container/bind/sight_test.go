package bind_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

const dirMode = 0o040755

var errAway = errors.New("the helper is away")

func away([]string) (trail.Trail, error) { return nil, errAway }

// claiming says the same, whatever is asked.
func claiming(seen trail.Trail) func([]string) (trail.Trail, error) {
	return func([]string) (trail.Trail, error) { return seen, nil }
}

func check(p bind.Policy, path string) error {
	mounts := []container.Mount{{HostPath: path, Path: "/m"}}
	return p.Sight(mounts).Check(mounts)
}

// TestTheAccountsViewCounts: the agent sees none of these paths.
func TestTheAccountsViewCounts(t *testing.T) {
	t.Parallel()
	seen := trail.Trail{
		"/": {Mode: dirMode}, "/hidden": {Mode: dirMode}, "/hidden/app": {Mode: dirMode}, "/hidden/gone": {Fault: trail.Absent},
		"/hidden/loose": {Mode: dirMode, UID: workloadID}, "/hidden/loose/x": {Mode: dirMode},
		"/hidden/closed": {Mode: 0o040700}, "/hidden/closed/x": {Fault: trail.Denied},
		"/hidden/link": {Mode: 0o120777, Target: "/else"}, "/else": {Mode: dirMode},
		"/hidden/broken": {Fault: "input/output error"},
		"/hidden/away":   {Mode: 0o120777, Target: "/etc/x/y"}, "/etc": {Mode: dirMode}, "/etc/x": {Fault: trail.Denied},
		"/hidden/odd": {Mode: 0o120777, Target: "/a\x1b[31m"},
	}
	policy := bind.Policy{Roots: []string{"/hidden"}, Look: claiming(seen), Workload: workloadIDs}
	for path, tt := range map[string]struct {
		wants string // empty: allowed
		lost  bool
	}{
		"/hidden/app":      {},
		"/hidden/gone":     {"/hidden/gone does not exist on this device", true},
		"/hidden/loose/x":  {"/hidden/loose belongs to the account of the containers (uid 997)", false},
		"/hidden/closed/x": {"/hidden/closed/x cannot be looked at: the account of the containers may not enter /hidden/closed, which has mode 0700 and belongs to uid 0: chmod o+x /hidden/closed", true},
		"/hidden/link":     {"/hidden/link leads to /else, which is not under a directory that bindRoots in agent.yaml lists: list one there", false},
		"/hidden/broken":   {"input/output error", true},
		"/hidden/away":     {"may not enter /etc, which has mode 0755 and belongs to uid 0", true},
		"/hidden/odd":      {"a link on the way has a target that cannot be shown", false},
		"/hidden/unasked":  {"nobody looked at it", true},
	} {
		err := check(policy, path)
		if tt.wants == "" && err != nil || tt.wants != "" && (!errors.Is(err, bind.ErrRefused) || !strings.Contains(err.Error(), tt.wants)) {
			t.Errorf("%s: got %v, want %q", path, err, tt.wants)
		}
		if err != nil && strings.Contains(err.Error(), "chmod o+x /etc") {
			t.Errorf("%s: advice about where a link leads: %v", path, err)
		}
		if bind.Lost(err) != tt.lost {
			t.Errorf("%s: lost is %t: %v", path, bind.Lost(err), err)
		}
	}
}

// TestNobodysWordExposesTheAgent: the account of the containers may be somebody else's by
// now. Its word that a path is a directory like others opens nothing of the agent's.
func TestNobodysWordExposesTheAgent(t *testing.T) {
	t.Parallel()
	base := tree(t)
	state := filepath.Join(base, "srv/agent/state")
	for _, path := range []string{"/run", "/run/user", "/proc/1", state, filepath.Join(base, "srv/tostate"), filepath.Join(base, "srv/torun")} {
		seen := trail.Trail{"/": {Mode: dirMode}}
		for dir := path; dir != "/"; dir = filepath.Dir(dir) {
			seen[dir] = trail.Entry{Mode: dirMode}
		}
		policy := bind.Policy{Roots: []string{"/"}, Forbidden: []string{state}, Look: claiming(seen), Workload: workloadIDs}
		if err := check(policy, path); !errors.Is(err, bind.ErrRefused) || !strings.Contains(err.Error(), "would expose") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestWithoutTheHelperTheAgentLooks: and says what it cannot see.
func TestWithoutTheHelperTheAgentLooks(t *testing.T) {
	t.Parallel()
	base := tree(t)
	policy := bind.Policy{Roots: []string{filepath.Join(base, "srv"), "/nowhere"}, Look: away, Hidden: []string{"/nowhere"}}
	if err := check(policy, filepath.Join(base, "srv/www")); err != nil {
		t.Errorf("what it sees: %v", err)
	}
	err := check(policy, "/nowhere/app")
	const want = "/nowhere/app cannot be looked at: the agent's unit hides /nowhere, and the helper does not answer: the helper is away"
	if !errors.Is(err, bind.ErrRefused) || !errors.Is(err, errAway) || !strings.Contains(err.Error(), want) || !bind.Lost(err) {
		t.Errorf("what it does not see: %v", err)
	}
	if err := check(policy, filepath.Join(base, "srv/none")); !errors.Is(err, bind.ErrAbsent) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestTroubles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	base := tree(t)
	for _, step := range []do{own("srv", 0, 0, 0o755), own("srv2", subordinateID, 0, 0o700)} {
		step(t, base)
	}
	seen := trail.Trail{
		"/": {Mode: dirMode}, "/closed": {Mode: 0o040700}, "/closed/data": {Fault: trail.Denied}, "/closed/fleet-looks-for-this": {Fault: trail.Denied},
		"/gone": {Fault: trail.Absent}, "/loose": {Mode: dirMode, UID: workloadID}, "/loose/data": {Mode: dirMode},
		"/theirs": {Mode: 0o040700, UID: subordinateID}, "/theirs/fleet-looks-for-this": {Fault: trail.Denied},
		"/good": {Mode: dirMode}, "/good/fleet-looks-for-this": {Fault: trail.Absent},
	}
	policy := bind.Policy{Roots: []string{"/closed", "/closed/data", "/gone", "/loose/data", "/theirs", "/good"}, Look: claiming(seen), Workload: workloadIDs}
	var got []string
	for _, trouble := range policy.Troubles() {
		text, _, _ := strings.Cut(trouble.Err.Error(), ", so a container")
		got = append(got, trouble.Root+": "+text+": "+trouble.Command)
	}
	closed := "the account of the containers may not enter /closed, which has mode 0700 and belongs to uid 0: chmod o+x /closed"
	if diff := cmp.Diff([]string{
		"/closed: " + closed, "/closed/data: " + closed, "/gone: does not exist on this device: install -d -m 0755 /gone",
		"/loose/data: /loose belongs to the account of the containers (uid 997): ",
	}, got); diff != "" {
		t.Error(diff)
	}
	// Without the helper: what the agent sees, and what its unit hides.
	policy = bind.Policy{Roots: []string{filepath.Join(base, "srv"), "/home"}, Look: away, Hidden: []string{"/home"}, Workload: workloadIDs}
	if list := policy.Troubles(); len(list) != 1 || list[0].Root != "/home" || !errors.Is(list[0].Err, errAway) {
		t.Errorf("without the helper: %+v", list)
	}
}

func TestIDsOnTheDevice(t *testing.T) {
	t.Parallel()
	ids := workloadIDs()
	for inside, want := range map[uint32]uint32{0: workloadID, 1: 100_000, 1000: 100_999, 65_536: 165_535} {
		if got, ok := ids.HostUID(inside); !ok || got != want {
			t.Errorf("%d is %d, %t, want %d", inside, got, ok, want)
		}
	}
	several := &bind.IDs{UIDs: append(workloadIDs().UIDs, bind.Range{First: 300_000, Count: 10})}
	for name, unknown := range map[string]func() bool{
		"beyond the range": func() bool { _, ok := ids.HostUID(65_537); return !ok },
		"several ranges":   func() bool { _, ok := several.HostUID(5); return !ok },
		"no ids":           func() bool { _, ok := (*bind.IDs)(nil).HostUID(5); return !ok },
	} {
		if !unknown() {
			t.Errorf("%s: it is known", name)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/srv/a-b_c.d": "/srv/a-b_c.d", "/srv/a b": "'/srv/a b'", "/x;id": "'/x;id'", "/it's": `'/it'\''s'`, "/$(id)": "'/$(id)'"} {
		if got := bind.Quote(path); got != want {
			t.Errorf("%q is %q, want %q", path, got, want)
		}
	}
}
