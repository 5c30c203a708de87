//go:build linux

package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	imageVersion = "1.2.3~rc.1"
	imageName    = "localhost/fleet-server:1.2.3-rc.1"
)

// TestServerImage runs the container image of the server with the oldest podman:
// loaded from its archive, under a number of its own, without a right or a file
// system to write to but its volume. It is ready, a command inside works, and its
// data outlive the container.
func TestServerImage(t *testing.T) {
	t.Parallel()
	archive := serverImage(t)
	m := machine(t, "image", lab.Bookworm)
	podman := func(args ...string) string {
		t.Helper()
		out, err := m.OutputAs(t.Context(), lab.WorkloadUser, append([]string{"podman"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	const inside = "/srv/image.tar"
	if err := m.CopyIn(t.Context(), archive, inside, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := podman("load", "--quiet", "--input", inside); !strings.HasSuffix(out, imageName) {
		t.Fatalf("podman loaded %q", out)
	}
	run := []string{
		"run", "--detach", "--name", "server", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges",
		"--volume", "data:/var/lib/fleet-server", "--publish", "6443:6443", imageName,
	}
	podman(run...)
	t.Cleanup(func() {
		if t.Failed() {
			r, err := m.RunAs(context.Background(), lab.WorkloadUser, "podman", "logs", "--tail", "40", "server")
			t.Logf("its log (%v):\n%s%s", err, r.Stdout, r.Stderr)
		}
	})
	web := &http.Client{
		Transport: &http.Transport{DialContext: m.Link.DialContext, DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // who it is does not matter here
		Timeout:   5 * time.Second,
	}
	ready := func() error { return answersReady(web, "https://"+m.Address().String()+":6443/readyz") }
	wait.For(t, "the server in the container is ready", waitTimeout, pollInterval, ready)
	if said := podman("exec", "server", "fleet-server", "kubectl", "get", "--raw", "/readyz"); said != "ok" {
		t.Errorf("kubectl in the container says %q", said)
	}
	if ids := podman("top", "server", "user,group,capeff"); !strings.HasSuffix(ids, "none") || !strings.Contains(ids, "fleet-server") && !strings.Contains(ids, "65532") {
		t.Errorf("it runs as\n%s", ids)
	}
	podman("exec", "server", "fleet-server", "kubectl", "create", "namespace", "kept")
	podman("rm", "--force", "--time", "10", "server")
	podman(run...)
	wait.For(t, "the second container is ready", waitTimeout, pollInterval, ready)
	podman("exec", "server", "fleet-server", "kubectl", "get", "namespace", "kept")
}

// serverImage makes the image of the server that `make build` made. The agent
// stands in for the server of another architecture, which podman must not take.
func serverImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join(dir, "image.tar")
	for arch, program := range map[string]string{runtime.GOARCH: "fleet-server", otherArch(): "fleet-agent"} {
		if err := os.Symlink(binary(t, program), filepath.Join(dir, fmt.Sprintf("fleet-server_%s_linux_%s", imageVersion, arch))); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "-C", "../../tools", "run", "./release", "image",
		"-version", imageVersion, "-arches", "arm64 amd64", "-dir", dir, "-out", archive)
	build.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1793491200")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("making the image: %v: %s", err, out)
	}
	return archive
}

func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func answersReady(web *http.Client, url string) error {
	r, err := web.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	if err == nil && string(body) != "ok" {
		err = errors.New("it says " + string(body))
	}
	return err
}
