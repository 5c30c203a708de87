package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/settings"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/terminal"
	"fleet.nationtech.io/fleet/test/wait"
)

// api is a client of the server.
func (s *server) api() *client.Client {
	s.t.Helper()
	o := &options{config: defaultConfig(), env: settings.Env{"KUBECONFIG=" + s.ready.Kubeconfig}}
	operator, err := o.operator()
	if err != nil {
		s.t.Fatal(err)
	}
	return operator.Client
}

// asks makes the request of a device whose key has the fingerprint of seed.
func (s *server) asks(name, seed string) (fingerprint string) {
	s.t.Helper()
	fingerprint = wire.Sum([]byte(seed)).String()
	_, err := s.api().EnrollmentRequests().Create(s.t.Context(), &v1alpha1.EnrollmentRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.EnrollmentRequestSpec{
			KeyFingerprint: fingerprint, CSR: "x", Address: "192.0.2.7", HardwareID: wire.Sum([]byte("machine")).String(),
			Inventory: &v1alpha1.Inventory{Hostname: "pi\x1b[2J"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return fingerprint
}

// boundTo is the fingerprint of the key that a device has, or nothing.
func (s *server) boundTo(name string) string {
	s.t.Helper()
	d, err := s.api().Devices().Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		s.t.Fatal(err)
	}
	if err != nil || d.Spec.Enrollment == nil {
		return ""
	}
	return d.Spec.Enrollment.KeyFingerprint
}

func TestApprovalShowsWhoAsks(t *testing.T) {
	t.Parallel()
	s := start(t)
	fingerprint := s.asks("edge-1", "one")
	shown := wire.ShowFingerprint(fingerprint)
	// Without a terminal nobody compares.
	out, err := s.try("device", "approve", "edge-1")
	for _, want := range []string{"edge-1", shown, "192.0.2.7", wire.Sum([]byte("machine")).String(), "UTC", `"pi\x1b[2J"`} {
		if !strings.Contains(out, want) {
			t.Errorf("it shows %q, want %q in it", out, want)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "--fingerprint") || strings.Contains(out, "\x1b") {
		t.Errorf("it says %v, %q", err, out)
	}
	for given, says := range map[string]string{
		shown[:len(shown)-1]: "malformed", "9f86": "malformed",
		wire.ShowFingerprint(wire.Sum([]byte("two")).String()): "another key",
	} {
		if _, err := s.try("device", "approve", "edge-1", "--fingerprint", given); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", given, err, says)
		}
		if _, err := s.try("device", "deny", "edge-1", "--fingerprint", given); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", given, err, says)
		}
	}
	if got := s.boundTo("edge-1"); got != "" {
		t.Fatalf("it is let in with the key %s", got)
	}
	if out := s.run("device", "approve", "edge-1", "--fingerprint", strings.ToUpper(shown)); !strings.Contains(out, "edge-1: Approved") {
		t.Errorf("it says %q", out)
	}
	eventually(t, "the device", func() error {
		if got := s.boundTo("edge-1"); got != fingerprint {
			return fmt.Errorf("its key is %q", got)
		}
		return nil
	})
}

func TestDenialAndReopening(t *testing.T) {
	t.Parallel()
	s := start(t)
	if _, err := s.try("device", "reopen", "edge-1"); err == nil || !strings.Contains(err.Error(), "not closed") {
		t.Errorf("%v", err)
	}
	fingerprint := s.asks("edge-1", "one")
	if _, err := s.try("device", "reopen", "edge-1"); err == nil || !strings.Contains(err.Error(), "waits") {
		t.Errorf("%v", err)
	}
	s.run("device", "deny", "edge-1")
	if out := s.run("device", "reopen", "edge-1"); out != "edge-1: open\n" {
		t.Errorf("it says %q", out)
	}
	s.asks("edge-1", "two")
	s.run("device", "deny", "edge-1")
	// An operator may think better of it.
	two := wire.Sum([]byte("two")).String()
	s.run("device", "approve", "edge-1", "--fingerprint", two)
	eventually(t, "the device", func() error {
		if got := s.boundTo("edge-1"); got != two || got == fingerprint {
			return fmt.Errorf("its key is %q", got)
		}
		return nil
	})
}

// On a terminal the person is asked. What is let in is what was shown, also when
// another device took the place of that request before the answer.
func TestApprovalOnATerminal(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, tc := range map[string]struct {
		answer string
		before func(name string)
		let    bool
	}{
		"no":    {"no\n", nil, false},
		"empty": {"\n", nil, false},
		"yes":   {"yes\n", nil, true},
		"swapped": {"yes\n", func(name string) {
			if err := s.api().EnrollmentRequests().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			s.asks(name, "stranger of "+name)
		}, false},
		"gone": {"yes\n", func(name string) {
			if err := s.api().EnrollmentRequests().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fingerprint := s.asks(name, name)
			person, program := terminal.Open(t)
			asks := &prompt{asked: func() {
				if tc.before != nil {
					tc.before(name)
				}
				if _, err := person.WriteString(tc.answer); err != nil {
					t.Error(err)
				}
			}}
			root := newRoot(nil)
			root.SetArgs([]string{"--data-dir", s.dir, "device", "approve", name})
			root.SetIn(program)
			root.SetOut(asks)
			err := root.ExecuteContext(t.Context())
			if (err == nil) != tc.let {
				t.Errorf("it ends with %v and prints %q", err, asks.text.String())
			}
			r, getErr := s.api().EnrollmentRequests().Get(t.Context(), name, metav1.GetOptions{})
			if getErr == nil && r.IsApproved() && !tc.let {
				t.Error("the request is approved")
			}
			if tc.let {
				eventually(t, "the device", func() error {
					if got := s.boundTo(name); got != fingerprint {
						return fmt.Errorf("its key is %q", got)
					}
					return nil
				})
			}
		})
	}
}

// prompt keeps what is printed, and calls asked once somebody is asked.
type prompt struct {
	text  bytes.Buffer
	asked func()
}

// Write implements io.Writer.
func (p *prompt) Write(data []byte) (int, error) {
	p.text.Write(data)
	if strings.Contains(string(data), "Type yes") {
		p.asked()
	}
	return len(data), nil
}

// eventually waits until check returns nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	wait.For(t, what, 20*time.Second, 10*time.Millisecond, check)
}
