package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/golden"
)

func TestHelpOfEachCommand(t *testing.T) {
	t.Parallel()
	golden.Compare(t, "help", golden.Help(t, newRoot, "completion"))
}

func TestCompletionsForEachShell(t *testing.T) {
	t.Parallel()
	golden.Compare(t, "completions", golden.Completions(t, newRoot))
}

func TestWhatStatusPrints(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	state := func(name string, phase wire.Phase, failure string) wire.DeploymentState {
		return wire.DeploymentState{
			DeploymentRef: wire.DeploymentRef{Namespace: "default", Name: name},
			Phase:         phase, Error: failure, LastEventAt: now.Add(-44 * time.Second),
			Containers: []wire.ContainerState{{Service: "web", State: "running", Image: "localhost/" + name + ":1", Phase: phase, Ready: phase == wire.PhaseRunning, Restarts: 2}},
		}
	}
	full := control.Status{
		Device: "press-1", AgentVersion: "0.1.0", Started: now.Add(-83 * time.Second), Connected: true, Server: "tls://gw.example.com:4222",
		CertificateExpires: now.AddDate(1, 0, 0), LastSnapshot: now.Add(-4 * time.Second),
		Manifest:    wire.Version{Epoch: "8de369d9-eff0-437a-84ee-b4e720f5c460", Term: 1, Seq: 6},
		Conditions:  []wire.Condition{{Type: "PodmanReady", Status: "True", Reason: "PodmanAnswers"}, {Type: "DiskPressure", Status: "True", Reason: "SpaceLow", Message: "2 % are free"}},
		Deployments: []wire.DeploymentState{state("hello", wire.PhaseRunning, ""), state("press", wire.PhaseFailed, "pulling image \"x\": no route\x1b[2J")},
	}
	press := services.Name{DeploymentRef: wire.DeploymentRef{Namespace: "default", Name: "press"}, Service: "db"}
	full.Details = control.Details{
		Services: control.Join([]control.Service{
			{Name: services.Name{DeploymentRef: full.Deployments[0].DeploymentRef, Service: "web"}, WantedImage: "localhost/hello:2"},
			{Name: services.Name{DeploymentRef: press.DeploymentRef, Service: "api"}, WantedImage: "localhost/api:1"},
			{Name: press, WantedImage: "localhost/db:1"},
		}, full.Deployments),
		Pulls:       []control.Pull{{DeploymentRef: press.DeploymentRef, Image: "localhost/db:1", Since: now.Add(-time.Minute)}},
		Disks:       []control.Disk{{Name: "/var/lib/fleet-agent", Size: 20 << 30, Used: 10 << 30}, {Name: "the image store", Size: 20 << 30, Used: 10 << 30}},
		LastContact: now.Add(-time.Hour),
	}
	full.Services[0].Crashes, full.Services[0].LastCrash = 3, now.Add(-5*time.Minute)
	lost := full
	lost.Connected, lost.LastError, lost.Standing = false, "no route to host", "the server took this device for a copy of another"
	lost.CertificateExpires, lost.RenewalError = now.AddDate(0, 0, -1), "no route"
	var b strings.Builder
	for _, s := range []control.Status{full, lost, {Device: "press-1", AgentVersion: "0.1.0"}} {
		if err := printStatus(&b, s, now); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	golden.Compare(t, "status", b.String())
}

func TestWhatDoctorPrints(t *testing.T) {
	t.Parallel()
	r := doctor.Report{
		State: doctor.Failure,
		Findings: []doctor.Finding{
			{Check: "configuration", State: doctor.OK, Message: "it can be read"},
			{Check: "linger", State: doctor.Failure, Message: "it is off for fleet-workload", Why: "systemd ends the account's containers", Command: "loginctl enable-linger fleet-workload", Fixable: true},
			{Check: "disk", State: doctor.Warning, Message: "9 % of /var are free\x1b[2J", Why: "images need room"},
			{Check: "clock", State: doctor.Unknown, Message: "no server answered", Why: "certificates have an end"},
		},
		Repairs: []doctor.Repair{{Command: "setup-user"}, {Command: "loginctl enable-linger fleet-workload", Error: "exit status 1"}},
	}
	var b strings.Builder
	for _, output := range []string{"text", "json"} {
		if err := printReport(&b, r, output); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	golden.Compare(t, "doctor", b.String())
}

// TestErrorsOfTheConfiguration: one line each, which says where and what to do.
func TestErrorsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var b strings.Builder
	for _, content := range []string{
		"sever: {}\n", "podman:\n  sock: /x\n", "Device: a\n", "device: a\ndevice: b\n", "device: [a]\n", "server: tls://a:4222\n", "server: {urls: tls://a:4222}\n",
		"labels: [a]\n", "labels: {a: 1, a: 2}\n", "heartbeatInterval: soon\n", "heartbeatInterval: 30\n", "", "\x00\x00", "a: [", "device: a\n---\ndevice: b\n",
		"keyStorage: cloud\n", "tpm: {device: tpm0}\n", "credentials: {type: nkey}\n", "device: Pi.1\n", "server: {urls: ['nats://a:4222']}\n",
		"stateDir: state\n", "bindRoots: [srv]\n", "log: {level: loud}\n", "log: {format: xml}\n", "heartbeatInterval: 1ms\n", "images: {pruneAbove: 85%}\n", "images: {pruneAbove: 50}\n",
	} {
		h.write("etc/agent.yaml", content)
		_, err := h.run("", "run")
		printError(&b, err)
	}
	if err := os.Remove(h.config); err != nil {
		t.Fatal(err)
	}
	_, err := h.run("", "run")
	printError(&b, err)
	golden.Compare(t, "configuration", strings.ReplaceAll(b.String(), h.config, "/etc/fleet-agent/agent.yaml"))
}

func TestWhatACrashPrints(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	full := crashes.Crash{
		Name:      services.Name{DeploymentRef: wire.DeploymentRef{Namespace: "shop", Name: "web"}, Service: "front"},
		Container: "shop_web_front", Image: "localhost/app:1\x1b[2J", ExitCode: 137, OutOfMemory: true,
		Seen: now.Add(-83 * time.Second), Boot: "8de369d9-eff0-437a-84ee-b4e720f5c460", Uptime: time.Hour, Ran: time.Minute, Restarts: 4,
		Device: crashes.Device{
			Connected: true, Manifest: wire.Version{Epoch: "8de369d9-eff0-437a-84ee-b4e720f5c460", Term: 1, Seq: 6}, MemorySize: 2 << 30, MemoryAvailable: 40 << 20,
			Disks: []crashes.Disk{{Name: "/var/lib/fleet-agent", Size: 20 << 30, Used: 10 << 30}, {Name: "the image store", Size: 20 << 30, Used: 10 << 30}},
		},
		Output: []byte("killed"),
	}
	var b strings.Builder
	for _, c := range []crashes.Crash{full, {Name: full.Name, Cause: "hung in state stopping", Seen: now.Add(time.Hour)}, {Name: full.Name, ExitCode: 3, Seen: now, Ended: now.Add(-time.Hour)}} {
		if err := printCrash(&b, c, now); err != nil {
			t.Fatal(err)
		}
	}
	golden.Compare(t, "crash", b.String())
}
