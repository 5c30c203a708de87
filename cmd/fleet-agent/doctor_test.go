package main

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/doctor"
)

// state returns the state of a check in the report that doctor printed.
func state(t *testing.T, printed, check string) doctor.State {
	t.Helper()
	var r doctor.Report
	if err := json.Unmarshal([]byte(printed), &r); err != nil {
		t.Fatalf("%v in %q", err, printed)
	}
	for _, f := range r.Findings {
		if f.Check == check {
			return f.State
		}
	}
	t.Fatalf("no finding %s", check)
	return ""
}

func TestDoctorBeforeEnrollment(t *testing.T) {
	h := newHost(t)
	out, err := h.run("", "doctor", "-o", "json")
	if !errors.Is(err, exitFailure) {
		t.Errorf("got %v", err)
	}
	if s := state(t, out, "certificate"); s != doctor.Failure {
		t.Errorf("certificate is %s", s)
	}
	if s := state(t, out, "configuration"); s != doctor.OK {
		t.Errorf("configuration is %s", s)
	}
	if _, err := os.Stat(h.state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("doctor made the state directory: %v", err)
	}
}

func TestDoctorAfterEnrollment(t *testing.T) {
	h, g := newHost(t), newGateway(t)
	if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "press-1"); err != nil {
		t.Fatal(err)
	}
	out, err := h.run("", "doctor", "-o", "json")
	if !errors.Is(err, exitFailure) { // there is no agent, and the gateway has no NATS
		t.Errorf("got %v", err)
	}
	if s := state(t, out, "certificate"); s != doctor.OK {
		t.Errorf("certificate is %s in %s", s, out)
	}
	if s := state(t, out, "agent"); s != doctor.Failure {
		t.Errorf("agent is %s", s)
	}
	if strings.Contains(out, "PRIVATE KEY") {
		t.Error("the device's key is in the report")
	}
}

func TestDoctorWithABadConfiguration(t *testing.T) {
	h := newHost(t)
	h.write("etc/agent.yaml", "sever: x\n")
	out, err := h.run("", "doctor")
	if !errors.Is(err, exitFailure) || !strings.Contains(out, "failure  configuration") || !strings.Contains(out, "sever") {
		t.Errorf("got %v and %s", err, out)
	}
}

func TestDoctorRefusesAnUnknownOutput(t *testing.T) {
	h := newHost(t)
	if out, err := h.run("", "doctor", "-o", "yaml"); err == nil || out != "" || !strings.Contains(err.Error(), "use text or json") {
		t.Errorf("got %v and %q", err, out)
	}
}
