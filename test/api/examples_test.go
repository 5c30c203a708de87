package api_test

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestExamples: the server takes each file of examples as it stands, and finds nothing to say
// against a Deployment of them.
func TestExamples(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	for _, file := range files {
		namespace := strings.TrimSuffix(filepath.Base(file), ".yaml")
		u.kubectl("create", "namespace", namespace)
		u.kubectl("label", "namespace", namespace, "fleet.nationtech.io/privilege=privileged")
		u.kubectl("apply", "-n", namespace, "-f", file)
		if namespace == "web" { // which says how to make its Secret
			u.kubectl("create", "secret", "generic", "web-tls", "-n", namespace, "--from-literal=tls.crt=x", "--from-literal=tls.key=x")
		}
		u.kubectl("wait", "-n", namespace, "--for=condition=Accepted", "--timeout=20s", "fleetdep", "--all")
	}
}
