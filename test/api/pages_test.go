package api_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")

// TestPagesApply applies what the pages show as YAML. Each object is taken, as it
// is, and each score is accepted in a namespace that allows what it needs.
func TestPagesApply(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: plant, labels: {fleet.nationtech.io/privilege: privileged}}}`)
	for _, secret := range []string{"press-db", "press-tls"} {
		u.kubectl("create", "secret", "generic", secret, "--namespace=plant", "--from-literal=password=x")
	}
	for page, kind := range map[string]string{
		"README.md": "Deployment", "docs/reference/podman-v0.md": "Deployment", "docs/reference/deployment.md": "Deployment",
		"docs/reference/device.md": "Device", "docs/reference/enrollmenttoken.md": "EnrollmentToken", "docs/reference/enrollmentrequest.md": "EnrollmentRequest",
	} {
		t.Run(filepath.Base(page), func(t *testing.T) {
			u := user{t, u.s}
			blocks := objectsOn(t, page)
			if len(blocks) == 0 || !strings.Contains(blocks[0], "\nkind: "+kind+"\n") {
				t.Fatalf("it shows no %s", kind)
			}
			for _, block := range blocks {
				out := u.apply(block)
				u.shows(out, " created")
				object, namespace := strings.Fields(out)[0], "--namespace="+namespaceOf(block)
				if kind == "Deployment" {
					u.kubectl("wait", "--for=condition=Accepted", "--timeout=10s", namespace, object)
				}
				u.kubectl("delete", "--timeout=15s", namespace, object)
			}
		})
	}
}

// objectsOn are the objects of the API that a page shows.
func objectsOn(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
		if strings.HasPrefix(m[1], "apiVersion:") {
			blocks = append(blocks, m[1])
		}
	}
	return blocks
}

var namespaceLine = regexp.MustCompile(`(?m)^  namespace: (\S+)`)

func namespaceOf(manifest string) string {
	if m := namespaceLine.FindStringSubmatch(manifest); m != nil {
		return m[1]
	}
	return "default"
}
