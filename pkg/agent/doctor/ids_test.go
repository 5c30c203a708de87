package doctor_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
)

// TestIDs: bind mounts are judged by them, so that what is not known for certain
// must not look as if there were none.
func TestIDs(t *testing.T) {
	t.Parallel()
	known := &bind.IDs{
		UIDs: []bind.Range{{First: 997, Count: 1}, {First: 100_000, Count: 65_536}, {First: 300_000, Count: 10}},
		GIDs: []bind.Range{{First: 996, Count: 1}, {First: 200_000, Count: 65_536}, {First: 44, Count: 1}},
	}
	tests := map[string]struct {
		file, content string
		want          *bind.IDs
	}{
		"by name and number":  {"etc/motd", "", known},
		"a directory service": {"etc/nsswitch.conf", "subid: sss\n", nil},
		"a damaged range":     {"etc/subuid", "fleet-workload:x:65536\n", nil},
		"a damaged group":     {"etc/group", "video:x:y:fleet-workload\n", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.write("etc/subuid", "pi:1:2\nfleet-workload:100000:65536\n997:300000:10\n", 0o644)
			d.write("etc/subgid", "fleet-workload:200000:65536\n", 0o644)
			d.write("etc/group", "root:x:0:\nvideo:x:44:pi,fleet-workload\naudio:x:29:pi\n", 0o644)
			d.write(tt.file, tt.content, 0o644)
			if diff := cmp.Diff(tt.want, d.local().IDs()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMemberships: the account's processes are asked only where it is in a group, since they
// are another program each time.
func TestMemberships(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	asked := 0
	ask := func() ([]uint32, error) { asked++; return []uint32{997, 44}, nil }
	f := d.read()
	f.AskGroups(ask)
	if asked > 0 || len(f.Memberships.Value) > 0 || f.Memberships.Err != nil {
		t.Errorf("without a group: %+v, asked %d times", f.Memberships, asked)
	}
	d.write("etc/group", "root:x:0:\nvideo:x:44:pi,fleet-workload\naudio:x:29:pi\ndialout:x:20:fleet-workload\n", 0o644)
	f = d.read()
	f.AskGroups(nil)
	if f.Groups.Err == nil {
		t.Error("the groups of processes are known, of which nobody knows")
	}
	f.AskGroups(ask)
	if diff := cmp.Diff([]doctor.Group{{Name: "video", GID: 44}, {Name: "dialout", GID: 20}}, f.Memberships.Value); diff != "" || asked != 1 || f.Groups.Err != nil {
		t.Errorf("%s, asked %d times, %v", diff, asked, f.Groups.Err)
	}
}
