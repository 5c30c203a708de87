package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// account is the server's in these tests; it needs no name.
const account = 4242

// gateway is a server's data directory that belongs to an account which root's
// commands do not trust. The server runs elsewhere.
type gateway struct {
	*server
	dir, marks string
	plain      []byte
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has rights to give up")
	}
	top, err := os.MkdirTemp("/var/tmp", "gateway-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	g := &gateway{server: start(t), dir: filepath.Join(top, "data"), marks: filepath.Join(top, "marks")}
	g.plain, err = os.ReadFile(g.ready.Kubeconfig)
	if err := errors.Join(err, os.Chmod(top, 0o711), os.Mkdir(g.dir, 0o700), os.Chown(g.dir, account, account), os.Mkdir(g.marks, 0o777), os.Chmod(g.marks, 0o777)); err != nil {
		t.Fatal(err)
	}
	g.plant(g.plain)
	return g
}

// plant writes the kubeconfig as the server's account could.
func (g *gateway) plant(content []byte) {
	g.t.Helper()
	path := g.kubeconfig()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		g.t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chown(path, account, account)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) kubeconfig() string { return filepath.Join(g.dir, "admin.kubeconfig") }

// root runs a command of root's in a process of its own.
func (g *gateway) root(in string, env []string, args ...string) (string, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append([]string{envProgram + "=1", "HOME=/root", "PATH=" + os.Getenv("PATH"), "FLEET_SERVER_DATA_DIR=" + g.dir}, env...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &out
	err := cmd.Run()
	return out.String(), err
}

// commands are those that open the server's kubeconfig.
func (g *gateway) commands() map[string][]string {
	return map[string][]string{
		"token create": {"token", "create"}, "token list": {"token", "list"}, "token revoke": {"token", "revoke", "none"},
		"device list": {"device", "list"}, "device approve": {"device", "approve", "none"}, "device revoke": {"device", "revoke", "none"},
		"device replace": {"device", "replace", "none"}, "device accept": {"device", "accept", "none"},
		"kubectl": {"kubectl", "get", "fleetdev"}, "kubectl --data-dir": {"kubectl", "--data-dir", g.dir, "get", "fleetdev"},
		"kubectl --kubeconfig": {"kubectl", "get", "fleetdev", "--kubeconfig", g.kubeconfig()}, "kubectl api-versions": {"kubectl", "api-versions"},
		"kubectl fleet devices": {"kubectl", "fleet", "devices"}, "kubectl fleet status": {"kubectl", "fleet", "status"}, "kubectl fleet revoke": {"kubectl", "fleet", "revoke", "none"},
		"completion": {"__complete", "kubectl", "get", "fleetdev", ""}, "completion of names": {"__complete", "kubectl", "--kubeconfig=" + g.kubeconfig(), "get", "namespaces", ""},
		"clock": {"clock"}, "clock accept": {"clock", "accept"}, "ca prune": {"ca", "prune"}, "admin-cert": {"admin-cert", "--out", g.marks},
	}
}

// program is a user that runs a program, which leaves the id that it had.
func (g *gateway) program() []byte {
	// With a certificate there would be no need to run it.
	bare := regexp.MustCompile(`(?m)^ *client-.*-data: .*\n`).ReplaceAllString(string(g.plain), "")
	return []byte(strings.Replace(bare, "\n  user:", fmt.Sprintf("\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n"+
		"      interactiveMode: Never\n      command: /bin/sh\n      args: [-c, 'touch %s/ran-as-$(id -u)']\n", g.marks), 1))
}

func (g *gateway) ran() []string {
	g.t.Helper()
	names, err := filepath.Glob(filepath.Join(g.marks, "ran-as-*"))
	if err != nil {
		g.t.Fatal(err)
	}
	return names
}

func TestRootRunsNothingThatTheServersAccountPlanted(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.plant(g.program())
	for name, args := range g.commands() {
		out, err := g.root("", nil, args...)
		if ran := g.ran(); len(ran) > 0 {
			t.Fatalf("%s: %v, %v: %s", name, ran, err, out)
		}
		if err == nil && args[0] != "__complete" || args[0] != "__complete" && !strings.Contains(out, "user admin has exec") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if out, err := g.root("", []string{"KUBECONFIG=" + g.kubeconfig()}, "kubectl", "get", "fleetdev"); err == nil || len(g.ran()) > 0 {
		t.Errorf("through $KUBECONFIG: %v, %s", g.ran(), out)
	}
	// The control: a kubeconfig of root's own may run what root likes.
	own := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(own, g.program(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"kubectl", "get", "fleetdev"}, {"token", "create"}} {
		if out, _ := g.root("", []string{"KUBECONFIG=" + own}, args...); len(g.ran()) != 1 || !strings.HasSuffix(g.ran()[0], "ran-as-0") {
			t.Errorf("%v: root's own program did not run: %s", args, out)
		}
		_ = os.Remove(filepath.Join(g.marks, "ran-as-0"))
	}
}

func TestRootReadsNoFileThatTheServersAccountNames(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("root's secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(){
		"token file": func() {
			g.plant([]byte(strings.Replace(string(g.plain), "\n  user:", "\n  user:\n    tokenFile: "+secret, 1)))
		},
		"link": func() { _ = errors.Join(os.Remove(g.kubeconfig()), os.Symlink(secret, g.kubeconfig())) },
		"pipe": func() {
			_ = errors.Join(os.Remove(g.kubeconfig()), syscall.Mkfifo(g.kubeconfig(), 0o600), os.Chown(g.kubeconfig(), account, account))
		},
	} {
		plant()
		for _, args := range [][]string{{"token", "create"}, {"clock"}, {"kubectl", "get", "fleetdev"}, {"device", "list"}, {"admin-cert", "--out", g.marks}} {
			out, err := g.root("", nil, args...)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || !exit.Exited() || strings.Contains(out, "root's secret") {
				t.Errorf("%s: %v: %v: %s", name, args, err, out)
			}
		}
	}
}

func TestRootsCommandsWorkWithTheServersRights(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for name, args := range g.commands() {
		out, err := g.root("", nil, args...)
		if none := len(args) > 2 && args[len(args)-1] == "none"; (err != nil) != none || strings.Contains(out, "denied") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	if out, err := g.root("", nil, "__complete", "kubectl", "get", "namespaces", "kube-s"); err != nil || !strings.Contains(out, "kube-system") {
		t.Errorf("completion: %v: %s", err, out)
	}
	info, err := os.Stat(filepath.Join(g.marks, "operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("the key belongs to %d, mode %s", s.Uid, info.Mode())
	}
	// Files that root alone may read, in every form of the flag.
	dir := t.TempDir()
	manifest := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: "+name+"}}"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g.ok(g.root("", nil, "kubectl", "apply", "-f", manifest("a"), "--filename="+manifest("b"), "-f"+manifest("c"), "-f="+manifest("d")))
	g.ok(g.root("{apiVersion: v1, kind: ConfigMap, metadata: {name: e}}", nil, "kubectl", "apply", "-f", "-"))
	out := g.ok(g.root("", nil, "kubectl", "get", "configmaps", "a", "b", "c", "d", "e", "-o", "name"))
	if strings.Count(out, "configmap/") != 5 {
		t.Errorf("got %s", out)
	}
	// An editor runs as the account, too, and without a terminal here.
	editor := filepath.Join(g.marks, "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\necho \"data: {edited-by: u$(id -u)-$(cut -d' ' -f7 /proc/self/stat)}\" >>\"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.ok(g.root("", []string{"KUBE_EDITOR=" + editor}, "kubectl", "edit", "configmap", "a"))
	if out := g.ok(g.root("", nil, "kubectl", "get", "configmap", "a", "-o", "jsonpath={.data.edited-by}")); out != "u4242-0" {
		t.Errorf("it was edited by %q", out)
	}
	if _, err := g.root("", nil, "kubectl", "get", "configmaps", "none"); err == nil {
		t.Error("a failure of kubectl is none of the command")
	}
	// What was made in the data directory belongs to the account.
	err = filepath.WalkDir(g.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if s, ok := info.Sys().(*syscall.Stat_t); err == nil && (!ok || s.Uid != account) {
			t.Errorf("%s belongs to %d", path, s.Uid)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if out, err := g.root("", nil, "run"); err == nil || !strings.Contains(out, "start the server as that account") {
		t.Errorf("run: %v: %s", err, out)
	}
}

func (g *gateway) ok(out string, err error) string {
	g.t.Helper()
	if err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	return out
}
