package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/clock"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/logging/capture"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/settings"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// envProgram makes the tests' program the server. It begins as kubectl's
// variables do, so that it reaches processes of other accounts.
const envProgram = "KUBE_TEST_FLEET_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
		return
	}
	capture.Install(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// server is a running server and the clock of its machine.
type server struct {
	t     testing.TB
	dir   string
	ready embedserver.Ready

	mu  sync.Mutex // guards off
	off time.Duration
}

func start(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	begin := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan embedserver.Ready, 1), make(chan error, 1)
	go func() {
		done <- embedserver.Run(ctx, embedserver.Config{
			DataDir: s.dir, APIListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", EnrollListen: "127.0.0.1:0",
			Clock:  clock.Source{Wall: s.wall, Elapsed: func() time.Duration { return time.Since(begin) }},
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}, func(r embedserver.Ready) { ready <- r })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case s.ready = <-ready:
	case err := <-done:
		done <- err
		t.Fatal("the server ended")
	}
	return s
}

func (s *server) wall() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.off)
}

// setClock sets the clock of the machine, so far off the time.
func (s *server) setClock(off time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = off
}

// try runs a command.
func (s *server) try(args ...string) (string, error) {
	s.t.Helper()
	out, _, err := s.both(args...)
	return out, err
}

// both runs a command and returns its standard output and its standard error.
func (s *server) both(args ...string) (stdout, stderr string, err error) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	root := newRoot(nil)
	root.SetArgs(append([]string{"--data-dir", s.dir}, args...))
	root.SetOut(&out)
	root.SetErr(&errOut)
	err = root.ExecuteContext(s.t.Context())
	return out.String(), errOut.String(), err
}

func (s *server) run(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// token returns the root that a new token pins.
func (s *server) token() wire.Digest {
	s.t.Helper()
	token, err := wire.ParseToken(s.run("token", "create"))
	if err != nil {
		s.t.Fatal(err)
	}
	return token.CAHash
}

// served is the chain that a listener sends, verified against roots in PEM.
func served(t testing.TB, addr net.Addr, rootsPEM []byte) ([]*x509.Certificate, error) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(rootsPEM)
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates, nil
}

func TestRotationOfARunningServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	listeners := map[string]net.Addr{"API": s.ready.API, "NATS": s.ready.NATS, "enrollment": s.ready.Enroll}
	oldRoot, err := os.ReadFile(filepath.Join(s.dir, "pki", "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	oldConfig, err := os.ReadFile(s.ready.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]*x509.Certificate{}
	for name, addr := range listeners {
		chain, err := served(t, addr, oldRoot)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = chain[0]
	}
	if out := s.run("ca", "prune"); !strings.Contains(out, "no old authorities") {
		t.Errorf("prune says %q", out)
	}
	pinned := s.token()

	if out := s.run("ca", "rotate", "--root"); strings.Count(out, "authority") != 4 {
		t.Errorf("rotate says %q", out)
	}
	now, err := pki.Load(filepath.Join(s.dir, "pki"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !now.HasRoot(pinned) || now.RootHash() == sha256.Sum256(nil) || wire.Digest(now.RootHash()) == pinned {
		t.Error("the root is the one from before, or the old one is gone")
	}
	if s.token() != now.RootHash() {
		t.Error("a new token does not pin the new root")
	}
	newRoot := pki.EncodeChain(now.Root.Certificates()[:1])
	for name, addr := range listeners {
		for which, root := range map[string][]byte{"old": oldRoot, "new": newRoot} {
			chain, err := served(t, addr, root)
			if err != nil {
				// The API takes a moment to see its new file.
				deadline := time.Now().Add(20 * time.Second)
				for err != nil && time.Now().Before(deadline) {
					chain, err = served(t, addr, root)
				}
			}
			if err != nil {
				t.Fatalf("%s: who knows the %s root: %v", name, which, err)
			}
			if !bytes.Equal(chain[0].RawSubjectPublicKeyInfo, before[name].RawSubjectPublicKeyInfo) {
				t.Errorf("%s: the key changed", name)
			}
		}
	}
	newConfig, err := os.ReadFile(s.ready.Kubeconfig)
	if err != nil || bytes.Equal(oldConfig, newConfig) {
		t.Errorf("the kubeconfig is the one from before (%v)", err)
	}
	s.run("kubectl", "get", "fleetdev")
	copied := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(copied, oldConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("kubectl", "--kubeconfig", copied, "get", "fleetdev")

	if out := s.run("ca", "prune"); !strings.Contains(out, "root: kept for tokens: ") || !strings.Contains(out, "kubeconfigs, until") || !strings.Contains(out, "server: forgotten") {
		t.Errorf("prune says %q", out)
	}
	if out := s.run("ca", "prune", "--force"); !strings.Contains(out, "root: forgotten") || !strings.Contains(out, "operator: forgotten") {
		t.Errorf("prune says %q", out)
	}
	forgotten := &options{config: defaultConfig(), env: settings.Env{"KUBECONFIG=" + copied}}
	c, err := forgotten.admin() // kubectl would end the process
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Clock(t.Context(), struct{}{}); err == nil {
		t.Error("a kubeconfig of a forgotten authority works")
	}
	s.run("kubectl", "get", "fleetdev")
}

func TestAdminCertReadsTheBus(t *testing.T) {
	t.Parallel()
	s := start(t)
	dir := filepath.Join(t.TempDir(), "bus")
	out := s.run("admin-cert", "--name", "ann", "--ttl", "1h", "--out", dir)
	_, url, found := strings.Cut(out, " -s ")
	if url, _, _ = strings.Cut(url, " "); !found || !strings.Contains(out, "--tlsfirst --tlscert "+filepath.Join(dir, "ann.crt")) {
		t.Fatalf("it prints %q", out)
	}
	conn, err := nats.Connect(url, nats.ClientCert(filepath.Join(dir, "ann.crt"), filepath.Join(dir, "ann.key")),
		nats.RootCAs(filepath.Join(dir, "ca.crt")), nats.TLSHandshakeFirst())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range js.KeyValueStoreNames(t.Context()).Name() {
		n++
	}
	if n != 4 {
		t.Errorf("%d buckets, want 4", n)
	}
	for _, args := range [][]string{{"--name", "Ann!"}, {"--ttl", "0s"}} {
		if out, err := s.try(append([]string{"admin-cert", "--out", t.TempDir()}, args...)...); err == nil {
			t.Errorf("%v: %q", args, out)
		}
	}
}

func TestNothingIsMadeWhileTheClockIsWrong(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.run("clock")
	s.setClock(-time.Hour)
	for _, args := range [][]string{{"clock"}, {"token", "create"}, {"admin-cert", "--out", t.TempDir()}, {"ca", "rotate"}, {"ca", "prune"}} {
		if out, err := s.try(args...); err == nil || !strings.Contains(err.Error(), "fleet-server clock accept") {
			t.Errorf("%v: %q, %v, want to be told what to do", args, out, err)
		}
	}
	s.run("kubectl", "get", "fleetdev")
	metrics := s.run("kubectl", "get", "--raw", "/metrics")
	if !strings.Contains(metrics, "\nfleet_clock_sane 0\n") {
		t.Error("the metric says nothing")
	}
	s.run("clock", "accept")
	s.run("token", "create")
	s.setClock(0)
	if _, err := s.try("token", "create"); err != nil {
		t.Errorf("a clock that is set forward soon after the start: %v", err)
	}
}

// A directory that depends on where a command runs is another one for each: only
// who names it on the command line can mean that.
func TestDataDirectoryOfFileAndEnvironmentIsAbsolute(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("dataDir: ~/fleet\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		env     settings.Env
		args    []string
		problem string
	}{
		"file":        {nil, []string{"--config", file}, `dataDir: "~/fleet" is not an absolute path`},
		"environment": {settings.Env{`FLEET_SERVER_DATA_DIR="/srv/fleet"`}, nil, `dataDir: "\"/srv/fleet\"" is not an absolute path`},
		"flag":        {settings.Env{"FLEET_SERVER_DATA_DIR=fleet"}, []string{"--data-dir", "fleet"}, ""},
		"tilde":       {nil, []string{"--data-dir=~/fleet"}, `data-dir: "~/fleet": no shell replaced the ~: write the whole path`},
	} {
		o := &options{config: defaultConfig(), env: tt.env}
		cmd := newVersion()
		o.addFlags(cmd.Flags())
		if err := cmd.Flags().Parse(append([]string{"--config", os.DevNull}, tt.args...)); err != nil {
			t.Fatal(err)
		}
		problem := ""
		if err := o.load(cmd.Flags()); err != nil {
			problem = err.Error()
		}
		if problem != tt.problem {
			t.Errorf("%s: got %q, want %q", name, problem, tt.problem)
		}
	}
}

func TestUnreadableKubeconfigIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"": "is the server running", "/nosuch/kubeconfig": "unset KUBECONFIG", broken: "unset KUBECONFIG",
	} {
		o := &options{config: defaultConfig(), env: settings.Env{"KUBECONFIG=" + path}}
		o.DataDir = dir
		if _, err := o.restConfig(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("KUBECONFIG=%s: got %v, want %q", path, err, want)
		}
	}
}

func TestNamesOfTheServerAreReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.yaml")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		args  []string
		again string
	}{
		"file": {nil, "b"},
		"flag": {[]string{"--tls-san", "c"}, "c"},
	} {
		write("tlsSANs: [a]\n")
		o := &options{config: defaultConfig()}
		cmd := newVersion()
		o.addFlags(cmd.Flags())
		if err := cmd.Flags().Parse(append(tc.args, "--config", file)); err != nil {
			t.Fatal(err)
		}
		if err := o.load(cmd.Flags()); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		sans := o.sans(cmd.Flags(), slog.New(slog.NewTextHandler(&log, nil)))
		write("tlsSANs: [b]\n")
		if got := strings.Join(sans(), ","); got != tc.again {
			t.Errorf("%s: the names are %s, want %s", name, got, tc.again)
		}
		write("tlsSANs: {")
		for range 2 {
			if got := strings.Join(sans(), ","); got != tc.again {
				t.Errorf("%s: with a file that cannot be read the names are %s, want %s", name, got, tc.again)
			}
		}
		if n := strings.Count(log.String(), "\n"); n > 1 {
			t.Errorf("%s: it says so %d times", name, n)
		}
	}
}

func TestServerLabelsInATokenAreRefused(t *testing.T) {
	s := &server{t: t, dir: t.TempDir()} // it need not run
	for _, args := range [][]string{
		{"--label", "kubernetes.io/arch=arm64"}, {"--label", "fleet.nationtech.io/device-id=a"}, {"--label", "device.fleet.nationtech.io/a=b"},
		{"--allow-label", "kubernetes.io/os"}, {"--allow-label", "device.fleet.nationtech.io/a"},
	} {
		if _, err := s.try(append([]string{"token", "create"}, args...)...); err == nil || !strings.Contains(err.Error(), "the server sets this label itself") {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	s := &server{t: t, dir: t.TempDir()}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--log-format", ""}, "text\njson\n:4"},
		{[]string{"run", "--log-level", ""}, "debug\ninfo\nwarn\nerror\n:4"},
		{[]string{"kubectl", "rollout", ""}, "\nrestart\t"},
		{[]string{"kubectl", "get", "--out"}, "--output\t"},
		{[]string{"kubectl", "fl"}, "fleet\tRun containers on a fleet of devices\n"},
		{[]string{"kubectl", "fleet", "run", "--restart", ""}, "\nOnFailure\n"},
	} {
		if out, err := s.complete(tc.args...); err != nil || !strings.Contains(out, tc.want) {
			t.Errorf("%q: %v, want %q in %q", tc.args, err, tc.want, out)
		}
	}
}

// complete asks for what may follow, as a shell does.
func (s *server) complete(args ...string) (string, error) {
	var out bytes.Buffer
	root := newRoot(nil)
	root.SetArgs(append([]string{"__complete", "--data-dir", s.dir}, args...))
	root.SetOut(&out)
	root.SetErr(io.Discard)
	err := root.ExecuteContext(s.t.Context())
	return out.String(), err
}

func TestKubectlSaysAnUnknownFlagOnce(t *testing.T) {
	s := &server{t: t, dir: t.TempDir()}
	_, said, err := s.both("kubectl", "get", "--bogus")
	if err == nil || !strings.Contains(err.Error(), "unknown flag: --bogus") || strings.Contains(said, "bogus") {
		t.Errorf("said %q beside %v", said, err)
	}
}
