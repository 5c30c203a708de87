package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/trace"
)

// unpack returns the files of a support bundle by name, without their directory.
func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressed, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(compressed); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, "fleet-support/")] = string(content)
	}
}

// canaries are secrets, by the place that they are put in.
var canaries = map[string]string{
	"Secret":        "canary-of-a-Secret",
	"login":         "canary-of-a-login",
	"comment":       "canary-of-a-comment",
	"label":         "canary-of-a-label",
	"output":        "canary-of-an-output",
	"quoted output": "canary-of-a-quotation",
	"token":         "FLT1.canary-of-a-token.id.secret",
	"another token": "FLT1.canary-of-another-token.id.secret",
	"pending key":   "canaryofapendingkeycanaryofapendingkey",
	"proxy":         "canary-of-a-proxy",
	"bearer":        "canary-of-a-bearer",
	"podman":        "canary-of-podman",
	"proxy's login": "canary-of-a-proxys-login",
	"probe":         "canary-of-a-probe",
}

// plant puts every canary on a host where it could be, and what would show it into
// answers. It returns the command to read the journal.
func (h *host) plant(e *engine) (journal []string) {
	h.t.Helper()
	state, err := store.Open(h.state, slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	ref := wire.DeploymentRef{Namespace: "shop", Name: "web"}
	pem := "-----BEGIN PRIVATE KEY-----\n" + canaries["pending key"] + "\n-----END PRIVATE KEY-----\n"
	if err := errors.Join(
		state.SaveSecrets(wire.Sum([]byte("digest")).String(), store.Secrets{"door": {"password": []byte(canaries["Secret"])}}),
		state.SavePendingIdentity(&store.Identity{Device: "pi-1", Key: pem}),
	); err != nil {
		h.t.Fatal(err)
	}
	crashes.New(state.CrashesDir(), nil, slog.New(slog.DiscardHandler)).Keep(crashes.Crash{
		Name: services.Name{DeploymentRef: ref, Service: "front"}, ExitCode: 3, Seen: time.Now(), Output: []byte(canaries["output"]),
	})
	h.write("etc/auth.json", fmt.Sprintf(`{"auths":{"registry.example.com":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte("user:"+canaries["login"]))))
	login := h.write("etc/proxy", "user:"+canaries["proxy's login"]+"\n")
	h.write("etc/agent.yaml", fmt.Sprintf("stateDir: %s # %s\npodman: {socket: %s}\nproxy: {url: 'http://127.0.0.1:1', credentialsFile: %s}\nlabels:\n  site: north\n  password: %s\n",
		h.state, canaries["comment"], e.socket, login, canaries["label"]))
	failure := "service front: exited with code 3, last output: login " + canaries["quoted output"] + " \"failed\""
	h.answer(&agentStub{status: control.Status{
		Device: "pi-1", LastError: "dialing by http://user:" + canaries["proxy"] + "@proxy:3128: refused; the Secret is " + canaries["Secret"],
		RenewalError: "the proxy does not like " + canaries["proxy's login"],
		Deployments: []wire.DeploymentState{
			{DeploymentRef: ref, Phase: wire.PhaseFailed, Error: failure},
			{DeploymentRef: ref, Phase: wire.PhaseFailed, Error: "service front: its readiness probe failed: command check exited with code 1: " + canaries["probe"]},
		},
	}})
	e.mux.HandleFunc("GET /v5.6.2/libpod/info", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"host":{"arch":"amd64","password":%q},"login":%q}`, canaries["podman"], canaries["login"])
	})
	lines := fmt.Sprintf("level=INFO msg=\"deployment changed\" reason=%q\nAuthorization: Bearer %s\nenrolling with %s\n%s", failure, canaries["bearer"], canaries["another token"], pem)
	return []string{"cat", h.write("journal", lines)}
}

func TestSupportBundle(t *testing.T) {
	h, e := newHost(t), newEngine(t)
	t.Setenv(envToken, canaries["token"])
	journal := h.plant(e)
	f := newRoot().PersistentFlags()
	if err := f.Set("config", h.config); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.dir, "bundle.tar.gz")
	missing, err := supportBundle{flags: flags{f}, journal: journal}.write(t.Context(), file)
	if err != nil || len(missing) > 0 {
		t.Fatalf("missing %q: %v", missing, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
	files := unpack(t, file)
	names := slices.Sorted(maps.Keys(files))
	if diff := cmp.Diff([]string{
		"README.txt", "agent.yaml", "containers.json", "crashes.json", "doctor.json", "facts.json", "files.json", "journal.txt", "podman.json", "status.json", "version.txt",
	}, names); diff != "" {
		t.Error(diff)
	}
	for name, content := range files {
		for what, canary := range canaries {
			if trace.In([]byte(content), canary) {
				t.Errorf("%s has the %s", name, what)
			}
		}
	}
	for name, want := range map[string]string{
		"status.json": "exited with code 3, last output: [redacted]", "containers.json": `"shop_web_front"`, "crashes.json": `"how": "exited with code 3"`,
		"journal.txt": "deployment changed", "podman.json": `"arch": "amd64"`, "agent.yaml": "site: north", "files.json": `"pending-identity.json"`,
		"doctor.json": `"findings"`, "facts.json": `"arch"`, "README.txt": "--with-output puts it in",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s lacks %q: %.2000s", name, want, files[name])
		}
	}

	// The control: with the output what was left out for its sake is there, and nothing else.
	with := filepath.Join(h.dir, "with.tar.gz")
	if _, err := (supportBundle{flags: flags{f}, journal: journal, withOutput: true}).write(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, content := range unpack(t, with) {
		for what, canary := range canaries {
			if trace.In([]byte(content), canary) {
				found[what] = true
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"output": true, "quoted output": true, "probe": true}, found); diff != "" {
		t.Error(diff)
	}
}

// Nothing that works is needed for a bundle, and none replaces a file.
func TestSupportBundleOfABrokenDevice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\npodman: {socket: /nonexistent/podman.sock}\nsever: {}\n")
	file := filepath.Join(h.dir, "bundle.tar.gz")
	out, errs, err := h.runBoth("support-bundle", file)
	if err != nil || !strings.Contains(out, file+" is written") {
		t.Fatalf("%q: %v", out, err)
	}
	for _, want := range []string{"left out: agent.yaml: ", "left out: status.json: fleet-agent is not running", "left out: podman.json: "} {
		if !strings.Contains(errs, want) {
			t.Errorf("standard error lacks %q: %s", want, errs)
		}
	}
	if files := unpack(t, file); !strings.Contains(files["README.txt"], "unknown key sever") || files["doctor.json"] == "" {
		t.Errorf("got %v", files)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.run("", "support-bundle", file)
	if after, readErr := os.ReadFile(file); err == nil || !strings.Contains(err.Error(), "exists already") || readErr != nil || !bytes.Equal(before, after) {
		t.Errorf("a second one: %v, %v", err, readErr)
	}
}
