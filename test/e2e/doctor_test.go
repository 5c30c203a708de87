//go:build linux

package e2e_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
)

// finding is one of `fleet-agent doctor -o json`.
type finding struct {
	Check, State, Message, Why, Command string
	Fixable                             bool
}

// fault is something that is broken on a device, and how doctor fixes it.
type fault struct {
	name string
	// harm is a script that breaks the device, undo one that fixes what no command
	// of doctor's can fix here.
	harm, undo string
	check      string
	state      string
	message    string
	// condition becomes False with it; none when empty.
	condition string
	// fix: `doctor --fix` does. Otherwise the command that doctor prints does,
	// unless there is undo.
	fix bool
}

// fix leaves warnings about the host at most.
const fix = `fleet-agent doctor --fix || [ $? -lt 2 ]`

const forWorkload = `cd / && runuser -u fleet-workload -- env HOME=/var/lib/fleet-workload XDG_RUNTIME_DIR=/run/user/$(id -u fleet-workload) `

var faults = []fault{
	{
		name: "linger is off", harm: "loginctl disable-linger fleet-workload",
		check: "linger", state: "failure", message: "it is off for fleet-workload", condition: "LingerEnabled", fix: true,
	},
	{
		name: "the range is gone", harm: "sed -i /^fleet-workload:/d /etc/subuid",
		check: "subordinate-ids", state: "failure", message: "has 0 subordinate uids", condition: "SubordinateIDsReady", fix: true,
	},
	{
		name: "podman began without ids",
		harm: `cp -a /etc/subuid /etc/subgid /root; : >/etc/subuid; : >/etc/subgid
			` + forWorkload + `podman system migrate || true
			` + forWorkload + `podman unshare true || true
			cp -a /root/subuid /root/subgid /etc`,
		check: "subordinate-ids", state: "failure", message: "podman maps 0 ids only",
	},
	{
		name: "the socket is stopped", harm: forWorkload + "systemctl --user stop podman.socket podman.service",
		check: "podman-socket", state: "failure", message: "nothing listens on the socket", fix: true,
	},
	{
		name: "the helper is stopped", harm: forWorkload + "systemctl --user stop fleet-helper.socket fleet-helper.service",
		check: "helper", state: "warning", message: "fleet-helper.socket of the workloads' account does not listen", fix: true,
	},
	{
		name: "the state is open", harm: "chmod 0755 /var/lib/fleet-agent",
		check: "directories", state: "warning", message: "/var/lib/fleet-agent has mode 0755, so that others can use it",
	},
	{
		name: "the configuration is closed", harm: "chmod 0700 /etc/fleet-agent",
		check: "directories", state: "failure", message: "the agent may not enter /etc/fleet-agent, which has mode 0700",
	},
	{
		name: "anybody may use the socket", harm: "chmod 0755 /run/fleet-workload",
		check: "podman-socket", state: "failure", message: "can enter its directory", fix: true,
	},
	{
		name: "newuidmap is missing", harm: "mv /usr/bin/newuidmap /root/", undo: "mv /root/newuidmap /usr/bin/",
		check: "programs", state: "failure", message: "missing: newuidmap",
	},
	{
		name: "newgidmap has lost its rights", harm: "chmod u-s /usr/bin/newgidmap", undo: "chmod u+s /usr/bin/newgidmap",
		check: "programs", state: "failure", message: "neither setuid root nor with file capabilities: /usr/bin/newgidmap",
	},
	{
		name: "the server of names is missing", harm: "mv /usr/lib/podman/aardvark-dns /root/", undo: "mv /root/aardvark-dns /usr/lib/podman/",
		check: "networks", state: "warning", message: "network.mode Bridge: this device lacks aardvark-dns: install it",
	},
	{
		name:  "an interpreter that others could be",
		harm:  `mkdir -p /usr/lib/fleet-agent/interpreters.d; echo '{types: [MineV0], socket: /run/mine/mine.sock}' >/usr/lib/fleet-agent/interpreters.d/mine.yaml; mkdir -p /run/mine; chmod 0777 /run/mine`,
		undo:  "rm -r /usr/lib/fleet-agent/interpreters.d/mine.yaml /run/mine",
		check: "interpreters", state: "warning", message: "interpreter mine at /run/mine/mine.sock: ",
	},
	{
		name: "the account has expired", harm: "chage --expiredate 2020-01-01 fleet-workload",
		check: "accounts", state: "failure", message: "the account fleet-workload has expired", fix: true,
	},
	{
		name:  "the set-up fails",
		harm:  `sed -i /^fleet-workload:/d /etc/subgid; echo 'SUB_GID_COUNT 0' >>/etc/login.defs; systemctl restart fleet-agent`,
		undo:  `sed -i '/^SUB_GID_COUNT 0/d' /etc/login.defs; ` + fix,
		check: "setup", state: "failure", message: "set SUB_UID_COUNT and SUB_GID_COUNT to 65536", condition: "SetupComplete",
	},
	{
		name: "a group since the last login", harm: "usermod -aG dialout fleet-workload",
		check: "groups", state: "warning", message: "fleet-workload is in dialout, but not since its last login", condition: "GroupsCurrent",
	},
	{
		name: "layers are copied",
		harm: forWorkload + `sh -c 'systemctl --user stop podman.socket podman.service; podman system reset --force'
			rm /var/lib/fleet-workload/.config/containers/storage.conf
			` + forWorkload + `podman --storage-driver vfs info >/dev/null
			` + forWorkload + `systemctl --user start podman.socket`,
		check: "storage-driver", state: "warning", message: "podman copies layers (vfs)", condition: "LayersShared",
	},
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.Config{Name: "doctor"})
	s.healthy()
	for _, f := range faults {
		ok := t.Run(f.name, func(t *testing.T) {
			whole := s.t
			s.t = t
			defer func() { s.t = whole }()
			s.suffer(f)
		})
		if !ok {
			return
		}
	}
	s.strangerLearnsLittle()
	s.expiredCertificate()
	s.withoutServer()
}

// hostDecides are findings about what the machines share with the host: its
// kernel, which may lack controllers, and its disk, which may be nearly full.
func hostDecides(f finding) bool { return strings.HasPrefix(f.Check, "cgroup-") || f.Check == "disk" }

func (s *site) healthy() {
	s.t.Helper()
	for _, f := range s.doctor() {
		if f.State != "ok" && !hostDecides(f) {
			s.t.Errorf("%s is %s on a healthy device: %s", f.Check, f.State, f.Message)
		}
	}
	for _, typ := range []string{"SetupComplete", "SubordinateIDsReady", "LingerEnabled", "LayersShared"} {
		s.device(typ, typ, metav1.ConditionTrue)
	}
}

func (s *site) suffer(f fault) {
	s.t.Helper()
	s.sh(f.harm)
	found := s.finding(f.check)
	if found.State != f.state || !strings.Contains(found.Message, f.message) {
		s.t.Errorf("%s is %s: %q, want %s: %q", f.check, found.State, found.Message, f.state, f.message)
	}
	if f.condition != "" {
		s.sh("systemctl reload fleet-agent")
		s.device(f.name, f.condition, metav1.ConditionFalse)
	}
	switch {
	case f.fix:
		if !found.Fixable {
			s.t.Errorf("%s is not fixable", f.check)
		}
		s.sh(fix)
	case f.undo != "":
		s.sh(f.undo)
	default:
		s.sh(found.Command)
	}
	if after := s.finding(f.check); after.State != "ok" {
		s.t.Errorf("%s is %s after it was fixed: %s", f.check, after.State, after.Message)
	}
	if f.condition != "" {
		s.sh("systemctl reload fleet-agent")
		s.device("fixed", f.condition, metav1.ConditionTrue)
	}
}

// strangerLearnsLittle: without rights nothing fails, and nothing is made up.
func (s *site) strangerLearnsLittle() {
	s.t.Helper()
	r, err := s.machine.RunAs(s.t.Context(), "nobody", "fleet-agent", "doctor", "-o", "json")
	s.must(err)
	if r.ExitCode != 1 {
		s.t.Errorf("exit status %d for nobody, want 1: %s", r.ExitCode, r.Stdout+r.Stderr)
	}
	for _, f := range findings(s.t, r.Stdout) {
		unknown := slices.Contains([]string{"podman-socket", "groups", "helper", "directories", "networks", "storage-driver", "certificate", "clock", "agent", "server-enrollment"}, f.Check)
		if unknown != (f.State == "unknown") && !hostDecides(f) {
			s.t.Errorf("for nobody %s is %s: %s", f.Check, f.State, f.Message)
		}
	}
	r, err = s.machine.RunAs(s.t.Context(), "nobody", "fleet-agent", "doctor", "--fix")
	s.must(err)
	if r.ExitCode != 1 || !strings.Contains(r.Stderr, "--fix needs root") {
		s.t.Errorf("--fix by nobody: exit status %d, %s", r.ExitCode, r.Stderr)
	}
}

// expiredCertificate puts one into the identity that no server issued: only
// doctor reads it, the agent that runs has its own.
func (s *site) expiredCertificate() {
	s.t.Helper()
	const path = "/var/lib/fleet-agent/identity.json"
	var identity map[string]any
	s.must(json.Unmarshal([]byte(s.sh("cat "+path)), &identity))
	identity["certificate"] = expired(s.t, identity["key"].(string))
	data, err := json.Marshal(identity)
	s.must(err)
	s.sh("cp -a " + path + " /root/identity.json")
	s.must(s.machine.WriteFile(s.t.Context(), path, strings.NewReader(string(data)), 0o600))
	s.sh("chown fleet-agent: " + path) // doctor reads it with the rights of that account
	if f := s.finding("certificate"); f.State != "failure" || !strings.Contains(f.Message, "it expired at ") || f.Command != "systemctl restart fleet-agent" {
		s.t.Errorf("got %+v", f)
	}
	s.sh("cp -a /root/identity.json " + path)
}

func expired(t *testing.T, keyText string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(keyText))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(-1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.(*ecdsa.PrivateKey).PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// withoutServer also has a clock that was set back: without a server the last
// good time is what tells.
func (s *site) withoutServer() {
	s.t.Helper()
	s.must(s.server.Stop())
	s.sh("systemctl stop fleet-agent")
	s.sh(fmt.Sprintf(`echo '{"good":"%d-01-01T00:00:00Z"}' >/var/lib/fleet-agent/clock.json`, time.Now().Year()+2))
	for check, want := range map[string]string{
		"server-enrollment": "failure", "server-connection": "failure", "agent": "failure", "clock": "warning", "certificate": "ok",
	} {
		if f := s.finding(check); f.State != want {
			s.t.Errorf("%s is %s without a server, want %s: %s", check, f.State, want, f.Message)
		}
	}
}

// sh runs a script as root on the device.
func (s *site) sh(script string) string {
	s.t.Helper()
	out, err := s.machine.Output(s.t.Context(), "sh", "-euc", script)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// doctor asks fleet-agent doctor, and checks its exit status.
func (s *site) doctor() []finding {
	s.t.Helper()
	r, err := s.machine.Run(s.t.Context(), "fleet-agent", "doctor", "-o", "json")
	s.must(err)
	found := findings(s.t, r.Stdout)
	want := 0
	for _, f := range found {
		want = max(want, map[string]int{"ok": 0, "unknown": 1, "warning": 1, "failure": 2}[f.State])
	}
	if r.ExitCode != want || r.Stderr != "" {
		s.t.Errorf("exit status %d, want %d; standard error: %s", r.ExitCode, want, r.Stderr)
	}
	return found
}

func findings(t *testing.T, text string) []finding {
	t.Helper()
	var report struct{ Findings []finding }
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return report.Findings
}

// finding returns the finding of a check; the worst when there are several.
func (s *site) finding(check string) finding {
	s.t.Helper()
	found := s.doctor()
	for _, state := range []string{"failure", "warning", "unknown", "ok"} {
		for _, f := range found {
			if f.Check == check && f.State == state {
				return f
			}
		}
	}
	s.t.Fatalf("no finding %s", check)
	return finding{}
}
