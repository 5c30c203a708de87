package interop_test

import (
	"fmt"
	"strings"
	"testing"
)

// Flux, Helm and others follow a rollout by kstatus, from the first moment on.
func TestKstatus(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, test := range []struct{ name, label, image, then, says string }{
		{"works", "group", "localhost/web:1", "Current", "2 of 2 devices"},
		{"works", "group", "localhost/web:2", "Current", "2 of 2 devices"}, // a change
		{"fails", "broken", "localhost/web:1", "Failed", "1 failed"},
		{"nowhere", "nobody", "localhost/web:1", "Current", "no device"},
	} {
		if _, err := s.Apply(t.Context(), deployment(test.name, test.label, test.image)); err != nil {
			t.Fatal(err)
		}
		name := "deployments.fleet.nationtech.io/" + test.name
		var seen []string
		s.eventually(test.name+" becomes "+test.then, func() error {
			line := s.status(name)
			seen = append(seen, line)
			if !strings.HasPrefix(line, "Deployment "+test.name+" "+test.then+" ") {
				return fmt.Errorf("it is %s", line)
			}
			if !strings.Contains(line, test.says) && test.then == "Failed" {
				t.Errorf("it does not say %q: %s", test.says, line)
			}
			return nil
		})
		for _, line := range seen[:len(seen)-1] {
			if !strings.HasPrefix(line, "Deployment "+test.name+" InProgress ") {
				t.Errorf("on its way it is %s", line)
			}
		}
		// What is current runs.
		if test.then == "Current" && test.label == "group" {
			if got := s.kubectl("get", name, "-o", "jsonpath={.status.aggregate.succeeded}"); got != "2" {
				t.Errorf("%s is current and runs on %s devices", test.name, got)
			}
		}
	}
	s.refused()
	for _, line := range strings.Split(strings.TrimSpace(s.status("fleetdev")), "\n") {
		if !strings.HasPrefix(line, "Device ") || !strings.Contains(line, " Current ") {
			t.Errorf("a device that is ready is %s", line)
		}
	}
	if _, err := s.Apply(t.Context(), "{apiVersion: fleet.nationtech.io/v1alpha1, kind: Device, metadata: {name: absent}}"); err != nil {
		t.Fatal(err)
	}
	if line := s.status("fleetdev/absent"); !strings.HasPrefix(line, "Device absent InProgress ") {
		t.Errorf("a device that never connected is %s", line)
	}
}

// status is what kstatus makes of objects.
func (s site) status(what string) string {
	s.t.Helper()
	list := s.kubectl("get", what, "-o", "json")
	if strings.Contains(what, "/") {
		list = `{"apiVersion":"v1","kind":"List","items":[` + list + `]}`
	}
	out, err := s.run(s.t.Context(), list, "kstatus")
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// refused: a Deployment that its namespace allowed when it was made, and does not any more.
func (s *site) refused() {
	s.t.Helper()
	const privilege = "fleet.nationtech.io/privilege"
	s.kubectl("label", "namespace", "default", privilege+"=privileged")
	bind := strings.Replace(deployment("refused", "group", "localhost/web:1"), "{name: web,", "{name: web, volumes: [{hostPath: /srv, mountPath: /srv}],", 1)
	if _, err := s.Apply(s.t.Context(), bind); err != nil {
		s.t.Fatal(err)
	}
	s.kubectl("label", "namespace", "default", "--overwrite", privilege+"=baseline")
	s.eventually("refused becomes Failed", func() error {
		if line := s.status("deployments.fleet.nationtech.io/refused"); !strings.HasPrefix(line, "Deployment refused Failed ") || !strings.Contains(line, "not accepted") {
			return fmt.Errorf("it is %s", line)
		}
		return nil
	})
}
