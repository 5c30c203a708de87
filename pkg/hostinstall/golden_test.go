package hostinstall_test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/test/golden"
)

// transcript is what an operator sees of one command after another.
type transcript struct {
	*machine
	strings.Builder
}

// run adds what a command says and how it ends.
func (s *transcript) run(command, program string, dry bool, do func(*hostinstall.Installer) error) {
	s.t.Helper()
	in, out := installer(s.machine, program)
	in.DryRun = dry
	s.tell(command, out, do(in))
}

func (s *transcript) tell(command string, out *bytes.Buffer, err error) {
	s.WriteString("$ " + command + "\n" + out.String())
	if err != nil {
		s.WriteString(err.Error() + "\n")
	}
	s.WriteString("\n")
}

func (s *transcript) file(path string) { s.WriteString("=== " + path + "\n" + s.read(path) + "\n") }

// text leaves out what is another on each run.
func (s *transcript) text(programs ...string) string {
	text := s.String()
	for _, p := range programs {
		text = strings.ReplaceAll(text, p, "PROGRAM")
	}
	return text
}

var times = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:]+Z`)

func TestWhatInstallationsSay(t *testing.T) {
	t.Parallel()
	v1, v2, broken := release(t, "v1"), release(t, "v2"), release(t, "v3, broken")
	synctest.Test(t, func(t *testing.T) {
		s := &transcript{machine: newMachine(t)}
		install := func(o hostinstall.Options) func(*hostinstall.Installer) error {
			return func(in *hostinstall.Installer) error { return in.Install(t.Context(), o) }
		}
		remove := func(r hostinstall.Removal) func(*hostinstall.Installer) error {
			return func(in *hostinstall.Installer) error { return in.Uninstall(t.Context(), r) }
		}
		named := with(one("logLevel", "warn"), list("tlsSANs", "gw", "192.0.2.1"))
		s.run("install --dry-run", v1, true, install(named))
		s.run("install", v1, false, install(named))
		s.run("install # again", v1, false, install(named))
		s.run("install --no-start", v1, false, install(hostinstall.Options{DataDir: data, NoStart: true}))
		s.run("upgrade --dry-run", v2, true, install(defaults))
		s.run("upgrade", v2, false, install(defaults))
		s.run("upgrade # to one that is broken", broken, false, install(defaults))
		s.write(config, "logLevel: debug # mine\n")
		s.run("install --log-level info # over an edit", v2, false, install(with(one("logLevel", "info"))))
		s.run("install --data-dir /home/x", v2, false, install(with(one("dataDir", "/home/x"))))
		s.run("install --data-dir /srv/fleet", v2, false, install(with(one("dataDir", "/srv/fleet"))))
		s.run("uninstall --dry-run", v2, true, remove(hostinstall.Removal{}))
		s.run("uninstall --purge --dry-run", v2, true, remove(hostinstall.Removal{Purge: true}))
		s.run("uninstall", v2, false, remove(hostinstall.Removal{}))
		s.mounts = []string{data + "/backups"}
		s.mkdir(data + "/backups")
		s.run("uninstall --purge", v2, false, remove(hostinstall.Removal{Purge: true}))
		s.write(program, "somebody's")
		s.run("install # over somebody's program", v1, false, install(defaults))

		s.machine = newMachine(t)
		s.packaged = true
		s.write(packaged, "v1")
		o := defaults
		o.Package = v1
		s.run("install --package # of a package", packaged, false, install(o))
		o.Package = broken
		s.run("upgrade --package # to one that is broken", packaged, false, func(in *hostinstall.Installer) error { return in.UpgradePackage(t.Context(), o) })
		s.run("upgrade # without --package", packaged, false, func(in *hostinstall.Installer) error { return in.Upgrade(t.Context(), defaults) })
		golden.Compare(t, "installations", times.ReplaceAllString(s.text(v1, v2, broken), "TIME"))
	})
}

// TestFilesThatAreWritten: units, settings, drop-ins, scripts and what package
// managers are told.
func TestFilesThatAreWritten(t *testing.T) {
	t.Parallel()
	s := &transcript{machine: newMachine(t)}
	o := with(one("dataDir", "/srv/fleet"), one("apiListen", "127.0.0.1:6443"), list("tlsSANs", "gw"))
	must(t, s.machine, release(t, "v1"), o)
	for _, path := range []string{unit, dropIn, config} {
		s.file(path)
	}
	golden.Compare(t, "server-files", s.String())

	s = &transcript{machine: newMachine(t)}
	in, _ := agent(s.machine)
	in.Program = release(t, "agent")
	if err := in.Install(t.Context(), hostinstall.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/etc/systemd/system/fleet-agent.service", "/etc/tmpfiles.d/fleet-agent.conf"} {
		s.file(path)
	}
	golden.Compare(t, "agent-files", s.String())
}

func TestFilesOfRepositories(t *testing.T) {
	t.Parallel()
	for manager, paths := range map[string][]string{
		"apt": {
			"/etc/apt/sources.list.d/fleet-gateway.sources", "/etc/apt/preferences.d/fleet-gateway", "/etc/apt/apt.conf.d/50fleet-gateway",
			"/etc/apt/keyrings/fleet-gateway-ca.crt", "/etc/apt/keyrings/fleet-gateway.asc",
		},
		"dnf": {"/etc/yum.repos.d/fleet-gateway.repo", "/etc/pki/tls/certs/fleet-gateway-ca.crt", "/etc/pki/rpm-gpg/RPM-GPG-KEY-fleet-gateway"},
	} {
		s := &transcript{machine: newMachine(t)}
		for _, command := range []string{"add-repository --dry-run", "add-repository", "add-repository # again"} {
			in, out := agent(s.machine)
			in.DryRun = strings.Contains(command, "dry")
			s.tell(command, out, in.AddRepository(t.Context(), repository(t, manager, "https://gw.example.com:8443")))
		}
		for _, path := range paths {
			s.file(path)
		}
		golden.Compare(t, filepath.Join("repositories", manager), s.String())
	}
}
