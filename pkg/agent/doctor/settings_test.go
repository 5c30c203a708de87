package doctor_test

import (
	"context"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
)

// agentID is the agent's account in these tests.
const agentID = 998

// settings reads what ReadSettings does on a device with the two accounts.
func (d device) settings(policy bind.Policy, helper error) []doctor.Finding {
	d.t.Helper()
	p := doctor.Probe{
		Local: d.local(), Config: config.Config{StateDir: "/var/lib/fleet-agent"}, ConfigPath: "/etc/fleet-agent/agent.yaml",
		Binds: policy, Helper: func(context.Context) error { return helper },
	}
	p.Lookup = func(name string) (*user.User, error) {
		id := map[string]int{"fleet-agent": agentID, "fleet-workload": 997}[name]
		return &user.User{Uid: strconv.Itoa(id), Gid: strconv.Itoa(id), HomeDir: "/var/lib/" + name}, nil
	}
	f := p.Local.Read()
	p.ReadSettings(d.t.Context(), &f)
	return doctor.Settings(f)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root looks with the rights of others")
	}
	const state, configuration = "var/lib/fleet-agent", "etc/fleet-agent"
	for name, tt := range map[string]struct {
		harm   func(d device) error
		helper error
		want   map[string]string // by check, a part of the message
	}{
		"sound":               {},
		"a root is closed":    {harm: func(d device) error { return os.Chmod(d.root+"/srv", 0o700) }, want: map[string]string{"bind-roots": "may not enter"}},
		"a root is not there": {harm: func(d device) error { return os.RemoveAll(d.root + "/srv/data") }, want: map[string]string{"bind-roots": "does not exist"}},
		"no helper":           {helper: errLost, want: map[string]string{"helper": errLost.Error()}},
		"somebody asks":       {helper: fs.ErrPermission, want: map[string]string{"helper": "needs root", "bind-roots": "needs root"}},
		"the configuration is closed": {
			harm: func(d device) error { return os.Chmod(filepath.Join(d.root, configuration), 0o700) }, want: map[string]string{"directories": "the agent may not enter"},
		},
		"agent.yaml is closed": {
			harm: func(d device) error { return os.Chmod(filepath.Join(d.root, configuration, "agent.yaml"), 0o600) },
			want: map[string]string{"directories": "the agent may not read"},
		},
		"the state is root's": {
			harm: func(d device) error { return os.Chown(filepath.Join(d.root, state), 0, 0) }, want: map[string]string{"directories": "belongs to uid 0, and the agent is uid 998"},
		},
		"the state is open": {
			harm: func(d device) error { return os.Chmod(filepath.Join(d.root, state), 0o755) }, want: map[string]string{"directories": "has mode 0755, so that others"},
		},
		"the state cannot be written": {
			harm: func(d device) error { return os.Chmod(filepath.Join(d.root, state), 0o500) }, want: map[string]string{"directories": "so that the agent cannot use it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			open(t, d.root)
			d.write("etc/fleet-agent/agent.yaml", "", 0o644)
			d.write("var/lib/fleet-agent/identity.json", "", 0o600)
			d.write("srv/data/x", "", 0o644)
			for dir, mode := range map[string]os.FileMode{"etc": 0o755, configuration: 0o755, "var": 0o755, "var/lib": 0o755, state: 0o700, "srv": 0o755, "srv/data": 0o755} {
				if err := os.Chmod(filepath.Join(d.root, dir), mode); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chown(filepath.Join(d.root, state), agentID, agentID); err != nil {
				t.Fatal(err)
			}
			if tt.harm != nil {
				if err := tt.harm(d); err != nil {
					t.Fatal(err)
				}
			}
			policy := bind.Policy{Roots: []string{filepath.Join(d.root, "srv/data")}}
			found := map[string]doctor.Finding{}
			for _, f := range d.settings(policy, tt.helper) {
				found[f.Check] = f
				if want := tt.want[f.Check]; (f.State == doctor.OK) != (want == "") || !strings.Contains(f.Message, want) {
					t.Errorf("%s is %s: %q, want %q", f.Check, f.State, f.Message, want)
				}
			}
			if len(found) != 3 {
				t.Errorf("found %v", found)
			}
		})
	}
}

// open lets every account enter the directories of a test.
func open(t *testing.T, path string) {
	t.Helper()
	for ; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
