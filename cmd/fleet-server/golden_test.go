package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/test/golden"
)

func bare() *cobra.Command { return newRoot(nil) }

func TestHelpOfEachCommand(t *testing.T) {
	t.Parallel()
	golden.Compare(t, "help", golden.Help(t, bare, "completion", "kubectl"))
}

func TestCompletionsForEachShell(t *testing.T) {
	t.Parallel()
	golden.Compare(t, "completions", golden.Completions(t, bare))
}

// changing is what is another on each run: tokens, addresses and times.
var changing = []struct {
	form *regexp.Regexp
	text string
}{
	{regexp.MustCompile(`(?m)^[IWEF]\d{4} .*\n`), ""}, // the log of the server's libraries, which runs in this process
	{regexp.MustCompile(`FLT1\.[\w.-]+`), "TOKEN"},
	{regexp.MustCompile(`https://[^ /]+:\d+`), "https://GATEWAY:PORT"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[ T][\d:]+`), "TIME"},
	{regexp.MustCompile(`\b[\dm]+s ago`), "AGE ago"},
	{regexp.MustCompile(`\b[\dm]+s +192\.`), "AGE   192."},
}

func unchanging(text string) string {
	for _, c := range changing {
		text = c.form.ReplaceAllString(text, c.text)
	}
	return text
}

// TestWhatCommandsPrint runs commands of an operator at one server.
func TestWhatCommandsPrint(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.asks("edge-1", "one")
	var b strings.Builder
	for _, args := range []string{
		"token create", "token create --pre-approve --uses 3 --label site=north", "device list", "device approve edge-1", "device approve edge-2",
		"device approve edge-1 --fingerprint 9f86", "device deny edge-1", "device reopen edge-1", "device revoke edge-9", "device replace edge-9",
		"device accept edge-9", "device revoke edge-9 --workloads burn", "token create --uses 0", "token create --label x",
		"admin-cert --ttl 0s", "ca prune", "clock accept", "kubeconfig --server gw", "upgrade --bogus", "devise",
		"token create --ttl 1d", "token create --uses many", "device approve", "token revoke",
	} {
		stdout, stderr, err := s.both(strings.Fields(args)...)
		b.WriteString("$ fleet-server " + args + "\n" + stdout + stderr)
		if err != nil {
			printError(&b, err)
		}
		b.WriteString("\n")
	}
	golden.Compare(t, "commands", unchanging(b.String()))
}

// TestErrorsOfTheConfiguration: one line each, which says where and what to do.
func TestErrorsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.yaml")
	var b strings.Builder
	for _, tt := range []struct {
		content string
		env     []string
		args    string
	}{
		{"apiLsten: :6443\n", nil, ""},
		{"tlsSans: [a]\n", nil, ""},
		{"logLevel: info\nlogLevel: warn\n", nil, ""},
		{"tlsSANs: gw\n", nil, ""},
		{"apiListen: [a]\n", nil, ""},
		{"", nil, ""},
		{"\x00\x00", nil, ""},
		{"apiListen: 6443\n", nil, ""},
		{"tlsSANs: ['gw:8443']\n", nil, ""},
		{"advertise: [gw]\n", nil, ""},
		{"#\n", []string{"FLEET_SERVER_APILISTEN=:1"}, ""},
		{"#\n", []string{"FLEET_SERVER_API_LISTEN=1"}, ""},
		{"apiListen: 127.0.0.1:99999\n", nil, ""},
		{"advertise: ['tls://gw:42220000']\n", nil, ""},
		{"#\n", nil, "--data-dir="},
		{"#\n", nil, "--data-dir=~/fleet"},
		{"#\n", nil, "--nats-listen=4222"},
		{"#\n", nil, "--config=/nosuch/config.yaml"},
		{"#\n", nil, "--config=/"},
		{"logLevel: loud\n", nil, ""},
	} {
		if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		root := newRoot(tt.env)
		root.SetArgs(append([]string{"run", "--config", file, "--data-dir", t.TempDir()}, strings.Fields(tt.args)...))
		printError(&b, root.ExecuteContext(t.Context()))
	}
	golden.Compare(t, "configuration", strings.ReplaceAll(b.String(), file, "/etc/fleet-server/config.yaml"))
}
