package hostinstall_test

import (
	"bytes"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

func agent(m *machine) (*hostinstall.Installer, *bytes.Buffer) {
	var out bytes.Buffer
	return &hostinstall.Installer{Host: m, Product: hostinstall.Agent, Program: "/usr/bin/fleet-agent", Out: &out}, &out
}

func repository(t *testing.T, manager, gateway string) hostinstall.Repository {
	t.Helper()
	u, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	return hostinstall.Repository{Gateway: u, CA: []byte("root\n"), Keys: []byte("keys\n"), Manager: manager, Arch: "aarch64"}
}

// TestAddRepository adds one and removes it; TestFilesOfRepositories has what the
// files hold.
func TestAddRepository(t *testing.T) {
	t.Parallel()
	for _, manager := range []string{"apt", "dnf"} {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			before := m.tree()
			for range 2 {
				in, out := agent(m)
				if err := in.AddRepository(t.Context(), repository(t, manager, "https://gw:8443")); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			for source, form := range hostinstall.RepositoryForm() {
				for path, text := range form {
					if m.read(source) != "" && !strings.Contains(m.read(path), text) {
						t.Errorf("%s lacks %q, by which an earlier form is told", path, text)
					}
				}
			}
			in, _ := agent(m)
			if err := in.Uninstall(t.Context(), hostinstall.Removal{Purge: true}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, m.tree()); diff != "" {
				t.Errorf("an uninstallation leaves something:\n%s", diff)
			}
		})
	}
}

func TestAddRepositoryKeepsEdits(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const path = "/etc/apt/apt.conf.d/50fleet-gateway"
	m.write(path, "mine")
	in, _ := agent(m)
	if err := in.AddRepository(t.Context(), repository(t, "apt", "https://gw:8443")); !errors.Is(err, hostinstall.ErrKept) {
		t.Errorf("got %v, want ErrKept", err)
	}
	if got := m.read(path); got != "mine" {
		t.Errorf("it is %q", got)
	}
}

func TestAddRepositoryRefuses(t *testing.T) {
	t.Parallel()
	for manager, gateway := range map[string]string{"apt": "https://[2001:db8::1]:8443", "zypper": "https://gw:8443"} {
		m := newMachine(t)
		in, _ := agent(m)
		before := m.tree()
		if err := in.AddRepository(t.Context(), repository(t, manager, gateway)); err == nil {
			t.Errorf("%s and %s were accepted", manager, gateway)
		}
		if diff := cmp.Diff(before, m.tree()); diff != "" {
			t.Error(diff)
		}
	}
}

// TestEarlierRepositories: by the form, files that an earlier version wrote, or that
// somebody had believe the gateway's key, are told from those of today.
func TestEarlierRepositories(t *testing.T) {
	t.Parallel()
	const path, keys = "/etc/yum.repos.d/fleet-gateway.repo", "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-fleet-gateway\n"
	m := newMachine(t)
	in, _ := agent(m)
	if err := in.AddRepository(t.Context(), repository(t, "dnf", "https://gw:8443")); err != nil {
		t.Fatal(err)
	}
	form := hostinstall.RepositoryForm()[path][path]
	present := m.read(path)
	for name, earlier := range map[string]string{
		"no index verified":     strings.Replace(present, "repo_gpgcheck=1", "repo_gpgcheck=0", 1),
		"the gateway's key":     strings.Replace(present, keys, strings.TrimSpace(keys)+",file:///etc/gateway.asc\n", 1),
		"any package":           strings.Replace(present, "includepkgs=fleet-agent\n", "", 1),
		"of the version before": "gpgcheck=1\nrepo_gpgcheck=0\n" + keys + "sslverify=1\nskip_if_unavailable=1\nincludepkgs=fleet-agent\n",
	} {
		if earlier == present || strings.Contains(earlier, form) {
			t.Errorf("%s: %q passes for the form of today", name, earlier)
		}
	}
	if !strings.Contains(present, form) { // the control
		t.Errorf("%q lacks %q", present, form)
	}
}
