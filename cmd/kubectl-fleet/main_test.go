package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubectl "k8s.io/kubectl/pkg/cmd"

	"fleet.nationtech.io/fleet/test/terminal"
)

// envProgram makes the tests' program the plugin.
const envProgram = "TEST_KUBECTL_FLEET"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// result is how a process ended.
type result struct {
	stdout, stderr string
	status         int
}

// program runs the plugin as a process.
func program(t testing.TB, kubeconfig string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = []string{envProgram + "=1", "HOME=" + t.TempDir(), "KUBECONFIG=" + kubeconfig}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if ok {
		return result{out.String(), errOut.String(), exit.ExitCode()}
	}
	return result{out.String(), errOut.String(), 0}
}

// config is a kubeconfig for a server.
func config(t testing.TB, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x, namespace: shop}}], clusters: [{name: x, cluster: {server: ` + server + `}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestErrorsAndStatusesAreKubectls: errors go to standard error, in the words of kubectl.
func TestErrorsAndStatusesAreKubectls(t *testing.T) {
	t.Parallel()
	here := config(t, "http://127.0.0.1:1")
	for args, want := range map[string]result{
		"run web --image a.b/c:1 --all --dry-run=client -o name": {"deployment.fleet.nationtech.io/web\n", "", 0},
		"run web --image a.b/c:1 --all --dry-run=maybe":          {"", "error: Invalid dry-run value (maybe). Must be \"none\", \"server\", or \"client\".\n", 1},
		"run web --image c:1 --all --dry-run=client":             {"", "error: spec.score.data.services[0].image: \"c:1\" is not a fully qualified image reference such as docker.io/library/nginx:1.29\n", 1},
		"frobnicate":             {"", "error: unknown command \"frobnicate\" for \"kubectl fleet\": write kubectl fleet [flags]\n", 1},
		"status --bogus":         {"", "error: unknown flag: --bogus: see kubectl fleet status --help\n", 1},
		"token create --uses=x":  {"", "error: --uses: \"x\" is not a whole number\n", 1},
		"approve":                {"", "error: accepts 1 arg(s), received 0: write kubectl fleet approve NAME [flags]\n", 1},
		"status":                 {"", "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n", 1},
		"revoke edge-1":          {"", "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?\n", 1},
		"status --context=other": {"", "Error in configuration: context was not found for specified context: other\n", 1},
	} {
		if got := program(t, here, strings.Fields(args)...); got != want {
			t.Errorf("%s: got %+v, want %+v", args, got, want)
		}
	}
	if got := program(t, here, "--version"); got.status != 0 || !strings.HasPrefix(got.stdout, "kubectl fleet version ") {
		t.Errorf("--version: %+v", got)
	}
	if got := program(t, here); got.status != 0 || !strings.Contains(got.stdout, "Available Commands:") {
		t.Errorf("without arguments: %+v", got)
	}
}

// TestAServerSteersNoTerminal: it chooses words of errors, warnings and tables.
func TestAServerSteersNoTerminal(t *testing.T) {
	t.Parallel()
	there := config(t, terminal.Hostile(t))
	for _, args := range []string{"status", "status x", "devices", "devices --pending", "run x --image a.b/c:1 --all", "token create", "approve x", "revoke x", "-v=8 status"} {
		got := program(t, there, strings.Fields(args)...)
		if got.status != 1 || got.stderr == "" {
			t.Errorf("%s: %+v", args, got)
		}
		if terminal.IsSteered(got.stdout + got.stderr) {
			t.Errorf("%s: %q", args, got.stderr)
		}
	}
}

// TestKubectlFindsAndCompletesThePlugin: kubectl runs kubectl-fleet and asks
// kubectl_complete-fleet, which is the one of a release.
func TestKubectlFindsAndCompletesThePlugin(t *testing.T) {
	dir := t.TempDir()
	self, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	completer, err := os.ReadFile("../../packaging/kubectl/kubectl_complete-fleet")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"kubectl-fleet": "#!/bin/sh\n" + envProgram + "=1 exec '" + self + "' \"$@\"\n", "kubectl_complete-fleet": string(completer),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	t.Setenv("KUBECONFIG", config(t, "http://127.0.0.1:1"))
	for args, want := range map[string]string{
		"fleet r":                       "reopen\tOpen a name again that was closed by a denial\nreplace\t",
		"fleet run --restart ":          "Always\nOnFailure\nNever\n:4\n",
		"fleet run --target":            "--target-device\t",
		"fleet status --context ":       "x\n:4\n",
		"fleet devices --output custom": "custom-columns\n",
		"fl":                            "fleet\t",
	} {
		words := strings.Split(args, " ")
		var out bytes.Buffer
		arguments := append([]string{"__complete"}, words...)
		c := kubectl.NewKubectlCommand(kubectl.KubectlOptions{
			Arguments: append([]string{"kubectl"}, arguments...), IOStreams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: io.Discard},
		})
		c.SetArgs(arguments)
		c.SetOut(&out)
		c.SetErr(io.Discard)
		if err := c.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%q: %v, %q, want %q", args, err, out.String(), want)
		}
	}
	if path, found := kubectl.NewDefaultPluginHandler([]string{"kubectl"}).Lookup("fleet"); !found || path != filepath.Join(dir, "kubectl-fleet") {
		t.Errorf("kubectl finds %q", path)
	}
}
