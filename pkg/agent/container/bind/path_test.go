package bind_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
)

// The containers' account of these tests, and an account of somebody else.
const (
	workloadID    = 997
	subordinateID = 100_123
	somebodyID    = 1000
)

func workloadIDs() *bind.IDs {
	return &bind.IDs{
		UIDs: []bind.Range{{First: workloadID, Count: 1}, {First: 100_000, Count: 65_536}},
		GIDs: []bind.Range{{First: workloadID, Count: 1}, {First: 100_000, Count: 65_536}},
	}
}

// do is one step in preparing a tree.
type do func(t *testing.T, base string)

func own(path string, uid, gid int, mode uint32) do {
	return func(t *testing.T, base string) {
		t.Helper()
		path := filepath.Join(base, path)
		if err := errors.Join(os.Chown(path, uid, gid), unix.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
}

func link(path, target string) do {
	return func(t *testing.T, base string) {
		t.Helper()
		path := filepath.Join(base, path)
		if err := errors.Join(os.RemoveAll(path), os.Symlink(strings.ReplaceAll(target, "BASE", base), path)); err != nil {
			t.Fatal(err)
		}
	}
}

// acl gives an account the right to write a directory that belongs to root.
func acl(path string) do {
	return func(t *testing.T, base string) {
		t.Helper()
		// Version 2; u::rwx u:997:rwx g::r-x m::rwx o::r-x, as struct posix_acl_xattr_entry.
		const none = "\xff\xff\xff\xff"
		list := "\x02\x00\x00\x00" + "\x01\x00\x07\x00" + none + "\x02\x00\x07\x00\xe5\x03\x00\x00" +
			"\x04\x00\x05\x00" + none + "\x10\x00\x07\x00" + none + "\x20\x00\x05\x00" + none
		err := unix.Setxattr(filepath.Join(base, path), "system.posix_acl_access", []byte(list), 0)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestResolveTrustsOnlyPathsThatContainersCannotChange: podman resolves a path
// again at each start, so that a path which passes must stay what it is.
func TestResolveTrustsOnlyPathsThatContainersCannotChange(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	tests := map[string]struct {
		tree  []do
		path  string // srv/data/sub when it is empty
		ids   func() *bind.IDs
		wants string // what the error names; empty: allowed
	}{
		"all of it is root's":                  {},
		"the source is the workload's":         {tree: []do{own("srv/data/sub", workloadID, workloadID, 0o777)}},
		"the parent is the workload's":         {tree: []do{own("srv/data", workloadID, 0, 0o755)}, wants: "srv/data belongs to"},
		"the parent is a subordinate id's":     {tree: []do{own("srv/data", subordinateID, 0, 0o755)}, wants: "srv/data belongs to"},
		"a directory far above is one's":       {tree: []do{own("srv", subordinateID, 0, 0o755)}, wants: "srv belongs to"},
		"the parent is nobody's":               {tree: []do{own("srv/data", 65534, 0, 0o755)}, wants: "srv/data belongs to"},
		"the parent is somebody's":             {tree: []do{own("srv/data", somebodyID, somebodyID, 0o755)}},
		"somebody's group writes":              {tree: []do{own("srv/data", somebodyID, somebodyID, 0o775)}},
		"the workload's group writes":          {tree: []do{own("srv/data", 0, workloadID, 0o775)}, wants: "srv/data can be written"},
		"a subordinate group writes":           {tree: []do{own("srv/data", 0, subordinateID, 0o775)}, wants: "srv/data can be written"},
		"all write":                            {tree: []do{own("srv/data", 0, 0, 0o777)}, wants: "srv/data can be written"},
		"an ACL lets the workload write":       {tree: []do{acl("srv/data")}, wants: "srv/data can be written"},
		"sticky, and the source is root's":     {tree: []do{own("srv/data", 0, 0, 0o1777)}},
		"sticky, and it is the workload's":     {tree: []do{own("srv/data", 0, 0, 0o1777), own("srv/data/sub", workloadID, 0, 0o755)}, wants: "srv/data can be written"},
		"sticky, and it is absent":             {tree: []do{own("srv/data", 0, 0, 0o1777)}, path: "srv/data/none", wants: "srv/data can be written"},
		"sticky of the workload":               {tree: []do{own("srv/data", workloadID, 0, 0o1755)}, wants: "srv/data belongs to"},
		"absent in the workload's":             {tree: []do{own("srv/data", workloadID, 0, 0o755)}, path: "srv/data/none", wants: "srv/data belongs to"},
		"absent in root's":                     {path: "srv/data/none", wants: "does not exist"},
		"a file in the workload's":             {tree: []do{own("srv/data", workloadID, 0, 0o755)}, path: "srv/data/file", wants: "srv/data belongs to"},
		"a file in root's":                     {path: "srv/data/file"},
		"a link in the workload's":             {tree: []do{link("srv/data/sub", "../www"), own("srv/data", workloadID, 0, 0o755)}, wants: "srv/data belongs to"},
		"a link in root's":                     {tree: []do{link("srv/data/sub", "../www")}},
		"a link in root's to the workload's":   {tree: []do{link("srv/data/sub", "BASE/srv/other/sub"), own("srv/other", workloadID, 0, 0o755)}, wants: "srv/other belongs to"},
		"a link by way of the workload's":      {tree: []do{link("srv/data/sub", "../other/sub/../../www"), own("srv/other", workloadID, 0, 0o755)}, wants: "srv/other belongs to"},
		"links in a circle":                    {tree: []do{link("srv/data/sub", "sub")}, wants: "too many links"},
		"somebody's and ids are not known":     {tree: []do{own("srv/data", somebodyID, 0, 0o755)}, ids: func() *bind.IDs { return nil }, wants: "srv/data belongs to"},
		"root's and ids are not known":         {ids: func() *bind.IDs { return nil }},
		"a root that the workload could shift": {tree: []do{link("roots/top", "BASE/etc"), own("roots", workloadID, 0, 0o755)}, path: "etc", wants: "bindRoots"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := tree(t)
			for _, dir := range []string{"srv/data/sub", "srv/other/sub", "roots"} {
				if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(base, "srv/data/file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, step := range tt.tree {
				step(t, base)
			}
			policy := bind.Policy{Roots: []string{filepath.Join(base, "srv"), filepath.Join(base, "roots/top")}, Workload: workloadIDs}
			if tt.ids != nil {
				policy.Workload = tt.ids
			}
			path := tt.path
			if path == "" {
				path = "srv/data/sub"
			}
			_, err := policy.Resolve(workload(filepath.Join(base, path)))
			if tt.wants == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, bind.ErrRefused) || !strings.Contains(err.Error(), tt.wants) {
				t.Fatalf("got %v, want a refusal that says %q", err, tt.wants)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is more than a line", err)
			}
		})
	}
}

// TestResolveRefusesAPathInAnotherMount: one container of a workload could
// replace what another mounts.
func TestResolveRefusesAPathInAnotherMount(t *testing.T) {
	t.Parallel()
	base := tree(t)
	policy := bind.Policy{Roots: []string{filepath.Join(base, "srv"), filepath.Join(base, "srv2")}}
	if err := os.MkdirAll(filepath.Join(base, "srv/www/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	outer, inner, beside := filepath.Join(base, "srv/www"), filepath.Join(base, "srv/www/sub"), filepath.Join(base, "srv2")
	mounts := func(paths ...container.Mount) *plan.Workload {
		w := &plan.Workload{}
		for _, m := range paths {
			w.Services = append(w.Services, container.Spec{Service: "s", Mounts: []container.Mount{m}})
		}
		return w
	}
	for name, tt := range map[string]struct {
		w       *plan.Workload
		refused bool
	}{
		"inside":                    {mounts(container.Mount{HostPath: outer}, container.Mount{HostPath: inner}), true},
		"inside, the other order":   {mounts(container.Mount{HostPath: inner, ReadOnly: true}, container.Mount{HostPath: outer}), true},
		"inside of a read-only one": {mounts(container.Mount{HostPath: outer, ReadOnly: true}, container.Mount{HostPath: inner}), false},
		"the same":                  {mounts(container.Mount{HostPath: outer}, container.Mount{HostPath: outer}), false},
		"beside":                    {mounts(container.Mount{HostPath: outer}, container.Mount{HostPath: beside}), false},
		"a volume":                  {mounts(container.Mount{HostPath: outer}, container.Mount{Volume: "v"}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := policy.Resolve(tt.w); errors.Is(err, bind.ErrRefused) != tt.refused {
				t.Errorf("got %v", err)
			}
		})
	}
}
