package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"fleet.nationtech.io/fleet/test/terminal"
)

// TestAnErrorSteersNoTerminal: devices and containers choose words in errors.
func TestAnErrorSteersNoTerminal(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	printError(&b, errors.New("begin\x1b[2J\u202e\u009b\xff\nFORGED\r"))
	line := strings.TrimSuffix(b.String(), "\n")
	if !strings.HasPrefix(line, "fleet-server: begin") || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		t.Errorf("%q", line)
	}
}

// TestKubectlSteersNoTerminal: kubectl and its libraries write to standard error
// by themselves, and say what a server said.
func TestKubectlSteersNoTerminal(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "config")
	text := strings.Replace(`{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x}}], clusters: [{name: x, cluster: {server: SERVER}}]}`, "SERVER", terminal.Hostile(t), 1)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"get", "pods"}, {"get", "--raw", "/x"}, {"-v=8", "get", "--raw", "/x"}, {"delete", "pod", "x"}, {"version"}, {"apply", "-f", "\x1b[2J"}} {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{"kubectl"}, args...)...)
		cmd.Env = []string{envProgram + "=1", "HOME=" + t.TempDir(), "KUBECONFIG=" + config}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err == nil || stderr.Len() == 0 {
			t.Errorf("%v: %v, %q", args, err, stderr.String())
		}
		if terminal.IsSteered(stderr.String()) {
			t.Errorf("%v: %q", args, stderr.String())
		}
	}
}

// What has no terminal of its own cannot write past package printable.
func TestOnlyEditorsAndQuestionsHaveATerminal(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]bool{
		"edit device x": true, "-n a edit device/x": true, "create -f x --edit": true, "exec -it x -- sh": true, "exec --tty=true x": true,
		"fleet approve x": true, "fleet status --watch": false, "get fleet approve": false,
		"apply -f -": false, "delete --interactive device x": false, "get devices": false, "create --edit=false -f -": false, "get device edited": false,
	} {
		if got := needsTerminal(strings.Fields(args)); got != want {
			t.Errorf("%s: %v", args, got)
		}
	}
}
