package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asProgram runs fleet-server as a process, with a directory on its PATH.
func asProgram(t testing.TB, env []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append([]string{envProgram + "=1", "HOME=" + t.TempDir()}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPluginsOfKubectlRun: those on PATH get the server's kubeconfig, and none takes the
// place of a command that there is.
func TestPluginsOfKubectlRun(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\necho \"$0\" \"$@\" \"$KUBECONFIG\" \"$KUBECTL_PATH\" $(tr '\\0' '\\n' </proc/$$/environ | grep -c ^KUBECONFIG=)\nexit 3\n"
	for _, name := range []string{"kubectl-hello", "kubectl-hello-two_words", "kubectl-fleet", "kubectl-version", "kubectl-help"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, "admin.kubeconfig"), []byte("apiVersion: v1\nkind: Config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path, own := "PATH="+dir+":/usr/bin:/bin", filepath.Join(data, "admin.kubeconfig")
	for args, want := range map[string]string{
		"hello a -b":        filepath.Join(dir, "kubectl-hello") + " a -b " + own + "  1\n",
		"hello two-words c": filepath.Join(dir, "kubectl-hello-two_words") + " c " + own + "  1\n",
	} {
		out, err := asProgram(t, []string{path, "KUBECTL_PATH=x", "KUBECONFIG=/a:/b"}, append([]string{"--data-dir", data, "kubectl"}, strings.Fields(args)...)...)
		if err == nil || err.Error() != "exit status 3" || out != want {
			t.Errorf("%s: %v, %q, want %q", args, err, out, want)
		}
	}
	other := filepath.Join(data, "other")
	if out, _ := asProgram(t, []string{path, "KUBECONFIG=" + other}, "--data-dir", data, "kubectl", "hello"); !strings.Contains(out, " "+other+" ") {
		t.Errorf("with a kubeconfig of one's own: %q", out)
	}
	for args, want := range map[string]string{
		"fleet run web --image a.b/c:1 --all --dry-run=client -o name":                                   "deployment.fleet.nationtech.io/web\n",
		"-n shop fleet run web --image a.b/c:1 --all --dry-run=client -o name":                           "deployment.fleet.nationtech.io/web\n",
		"fleet run web --image a.b/c:1 --all --dry-run=client -n shop -o jsonpath={.metadata.namespace}": "shop",
		"version --client": "Client Version",
		"help fleet":       "Run containers on a fleet of devices",
	} {
		if out, err := asProgram(t, []string{path}, append([]string{"--data-dir", data, "kubectl"}, strings.Fields(args)...)...); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %q, want %q", args, err, out, want)
		}
	}
	if out, err := asProgram(t, []string{path}, "--data-dir", dir, "kubectl", "fleet", "status"); err == nil || !strings.Contains(out, askForServer) {
		t.Errorf("without a server: %v, %q", err, out)
	}
	for args, want := range map[string]string{
		"fleet run web --image c:1 --all --dry-run=client": "fleet-server: spec.score.data.services[0].image: ",
		"fleet frobnicate": "unknown command \"frobnicate\"",
		"frobnicate":       "unknown command \"frobnicate\"",
		"-n shop hello":    "unknown command \"hello\"",
	} {
		out, err := asProgram(t, []string{path}, append([]string{"--data-dir", data, "kubectl"}, strings.Fields(args)...)...)
		if err == nil || err.Error() != "exit status 1" || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %q, want %q", args, err, out, want)
		}
	}
}
