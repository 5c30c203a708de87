package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/apis/crds"
	"fleet.nationtech.io/fleet/test/process"
)

// used makes a directory that a server has worked in.
func used(t *testing.T, dir string) {
	t.Helper()
	s, err := startIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
}

func startIn(t *testing.T, dir string) (*process.Server, error) {
	t.Helper()
	s, err := process.StartServer(t.Context(), process.Config{Binary: binary(t), DataDir: dir})
	if err == nil {
		t.Cleanup(func() { _ = s.Stop() }) // a test that stopped it already sees the result there
	}
	return s, err
}

func TestStrangersSeeHealthOnly(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a stranger verifies nothing
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200,
		"/": 401, "/api": 401, "/apis": 401, "/version": 401, "/metrics": 401, "/openapi/v3": 401, "/api/v1/secrets": 401,
		"/debug/pprof/": 401, "/readyz/etcd": 401,
	} {
		r, err := client.Get(s.APIURL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s answers %d, want %d", path, r.StatusCode, want)
		}
	}
	for _, url := range []string{s.APIURL, s.EnrollURL} {
		_, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}) //nolint:gosec // TLS 1.2 is what must be refused
		if err == nil {
			t.Errorf("%s speaks TLS 1.2", url)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	u := user{t, start(t)}
	u.shows(u.kubectl("get", "--raw", "/metrics"), "fleet_devices_connected 0", "apiserver_request_total", "go_goroutines")
}

func TestDataDirIsPrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := startIn(t, dir); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		// What is below a private directory is out of reach whatever its own mode.
		if path == dir && info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, want 0700", path, info.Mode().Perm())
		}
		if strings.HasSuffix(path, ".key") || strings.HasSuffix(path, "kubeconfig") || strings.HasSuffix(path, "encryption.yaml") {
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, want 0600", path, info.Mode().Perm())
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRestartKeepsIdentityAndObjects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := startIn(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	u := user{t, s}
	u.kubectl("create", "configmap", "kept")
	before, err := os.ReadFile(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if s, err = s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	user{t, s}.kubectl("get", "configmap", "kept")
	after, err := os.ReadFile(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the kubeconfig changed across a restart")
	}
}

// fails runs fleet-server, which has to end with one line that says what is
// wrong and what to do.
func fails(t *testing.T, env []string, says []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); !ok || ctx.Err() != nil {
		t.Fatalf("fleet-server %v: %v, want a failure: %s", args, err, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	last := lines[len(lines)-1]
	for _, s := range says {
		if !strings.Contains(last, s) {
			t.Errorf("fleet-server %v ends with %q, want it to say %q", args, last, s)
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	free := []string{"--api-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--enroll-listen", "127.0.0.1:0"}
	run := func(args ...string) []string { return append(append([]string{"run"}, free...), args...) }
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	t.Run("unknown config key", func(t *testing.T) {
		fails(t, nil, []string{"config.yaml: line 1: unknown key natsListn; known here: dataDir,"}, run("--data-dir", filepath.Join(dir, "a"), "--config", file("config.yaml", "natsListn: :1\n"))...)
	})
	t.Run("missing config file", func(t *testing.T) {
		fails(t, nil, []string{"/nosuch.yaml"}, run("--config", "/nosuch.yaml")...)
	})
	t.Run("bad environment", func(t *testing.T) {
		fails(t, []string{"FLEET_SERVER_NATS_LISTEN=4222"}, []string{"nats-listen", "host:port"}, "run", "--data-dir", filepath.Join(dir, "b"))
	})
	t.Run("no data dir", func(t *testing.T) {
		fails(t, nil, []string{"flag --data-dir", "must not be empty"}, run("--data-dir", "")...)
	})
	t.Run("name with a port", func(t *testing.T) {
		fails(t, nil, []string{"tls-san", `"gw.example.com:8443"`}, run("--tls-san", "gw.example.com:8443", "--data-dir", filepath.Join(dir, "e"))...)
	})
	t.Run("address of another machine", func(t *testing.T) {
		fails(t, nil, []string{"cannot assign", ": choose another with --api-listen"}, run("--api-listen", "192.0.2.1:1", "--data-dir", filepath.Join(dir, "f"))...)
	})
	t.Run("unknown command", func(t *testing.T) {
		fails(t, nil, []string{`unknown command "rnu" for "fleet-server"; Did you mean this?; run`}, "rnu")
	})
	t.Run("unknown log level", func(t *testing.T) {
		fails(t, nil, []string{"debug, info, warn or error"}, run("--log-level", "loud", "--data-dir", filepath.Join(dir, "c"))...)
	})
	for _, flag := range []string{"--api-listen", "--nats-listen", "--enroll-listen"} {
		t.Run("port in use "+flag, func(t *testing.T) {
			fails(t, nil, []string{"address already in use", flag}, run("--data-dir", filepath.Join(dir, "d"), flag, busy.Addr().String())...)
		})
	}
	t.Run("data dir is a file", func(t *testing.T) {
		fails(t, nil, []string{"creating the data directory", "not a directory"}, run("--data-dir", file("plain", "")+"/below")...)
	})
	t.Run("damaged database", func(t *testing.T) {
		data := filepath.Join(dir, "damaged")
		if err := os.MkdirAll(filepath.Join(data, "pki"), 0o700); err != nil {
			t.Fatal(err)
		}
		garbage := bytes.Repeat([]byte("not a database. "), 1024)
		if err := os.WriteFile(filepath.Join(data, "state.db"), garbage, 0o600); err != nil {
			t.Fatal(err)
		}
		fails(t, nil, []string{"damaged", "state.db", "restore it from a backup"}, run("--data-dir", data)...)
		kept, err := os.ReadFile(filepath.Join(data, "state.db"))
		if err != nil || !bytes.Equal(kept, garbage) {
			t.Errorf("the damaged file was touched (%v)", err)
		}
	})
	t.Run("damaged pages", func(t *testing.T) {
		data := filepath.Join(dir, "pages")
		used(t, data)
		path := filepath.Join(data, "state.db")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		const header = 100 // SQLite's own; the schema follows
		for i := header; i < len(content); i++ {
			content[i] ^= 0x5a
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		fails(t, nil, []string{"damaged", "state.db", "restore it from a backup"}, run("--data-dir", data)...)
	})
	t.Run("lost key of Secrets", func(t *testing.T) {
		data := filepath.Join(dir, "lost")
		used(t, data)
		key := filepath.Join(data, "encryption.yaml")
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		fails(t, nil, []string{key, "restore it from a backup"}, run("--data-dir", data)...)
		if _, err := os.Stat(key); err == nil {
			t.Error("a new key was made, although the database needs the old one")
		}
	})
	t.Run("key of other Secrets", func(t *testing.T) {
		data, other := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
		used(t, data)
		used(t, other)
		key := filepath.Join(data, "encryption.yaml")
		if err := os.Rename(filepath.Join(other, "encryption.yaml"), key); err != nil {
			t.Fatal(err)
		}
		fails(t, nil, []string{"encryption.yaml is not the one of this database", "same backup"}, run("--data-dir", data)...)
	})
	t.Run("second server on the data dir", func(t *testing.T) {
		data := filepath.Join(dir, "shared")
		s, err := startIn(t, data)
		if err != nil {
			t.Fatal(err)
		}
		fails(t, nil, []string{"in use by another fleet-server", data, "--data-dir"}, run("--data-dir", data)...)
		user{t, s}.kubectl("get", "ns")
	})
	t.Run("no server", func(t *testing.T) {
		fails(t, []string{"KUBECONFIG="}, []string{"kubeconfig", "is the server running"}, "token", "create", "--data-dir", filepath.Join(dir, "none"))
	})
	t.Run("kubectl without a server", func(t *testing.T) {
		fails(t, []string{"KUBECONFIG="}, []string{"kubeconfig", "is the server running"}, "kubectl", "--data-dir", filepath.Join(dir, "none"), "get", "ns")
	})
	t.Run("bad token flags", func(t *testing.T) {
		fails(t, nil, []string{"--uses 0"}, "token", "create", "--uses", "0")
		fails(t, nil, []string{"--label", "KEY=VALUE"}, "token", "create", "--label", "x")
		fails(t, nil, []string{"--ttl"}, "token", "create", "--ttl", "-1h")
		fails(t, nil, []string{"--label", "site=b", "twice"}, "token", "create", "--label", "site=a", "--label", "site=b")
	})
	t.Run("nobody to approve", func(t *testing.T) {
		s := start(t)
		_, err := s.Run(t.Context(), "", "device", "approve", "nosuch")
		if err == nil || !strings.Contains(err.Error(), "no device named") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	// Every source but the flag names a port that nothing can listen on.
	if err := os.WriteFile(config, []byte("apiListen: 192.0.2.1:1\nnatsListen: 192.0.2.1:1\nenrollListen: 127.0.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, binary(t), "run", "--config", config, "--data-dir", filepath.Join(dir, "data"), "--api-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "FLEET_SERVER_API_LISTEN=192.0.2.1:1", "FLEET_SERVER_NATS_LISTEN=127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("fleet-server is ready"))
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "fleet-server is ready" {
		t.Errorf("the server says %q (%v)", line, err)
	}
	cancel()
	_ = cmd.Wait() // killed by the context: an error is what it should return
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		says string
		args []string
	}{
		{"--hardware-id HASH ", []string{"token", "create", "--help"}},
		{"fleet-server version ", []string{"--version"}},
	} {
		out, err := exec.CommandContext(t.Context(), binary(t), test.args...).Output()
		if err != nil || !strings.Contains(string(out), test.says) {
			t.Errorf("fleet-server %v prints %q (%v), want %q", test.args, out, err, test.says)
		}
	}
}

func TestGenCRDPrintsWhatIsEmbedded(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), binary(t), "gen-crd").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, crds.YAML()) {
		t.Error("gen-crd prints something else than the embedded definitions")
	}
}
