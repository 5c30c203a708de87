package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func env(values map[string]string) settings.Env {
	var e settings.Env
	for name, value := range values {
		e = append(e, name+"="+value)
	}
	return e
}

func TestEnvironmentIsOverFileIsOverDefault(t *testing.T) {
	t.Parallel()
	path := write(t, "device: from-file\nheartbeatInterval: 10s\nserver: {urls: ['tls://a:4222']}\n")
	got, err := config.Load(path, true, env(map[string]string{"FLEET_AGENT_DEVICE": "from-env", "FLEET_AGENT_BIND_ROOTS": "/srv,/data"}), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Device = "from-env"
	want.HeartbeatInterval = 10 * time.Second
	want.Server.URLs = []string{"tls://a:4222"}
	want.BindRoots = []string{"/srv", "/data"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
}

func TestFileMayBeAbsent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none.yaml")
	got, err := config.Load(path, false, env(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got); diff != "" {
		t.Error(diff)
	}
	if _, err := config.Load(path, true, env(nil), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was asked for: %v", err)
	}
}

func TestBadConfigurationIsNamed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		env     map[string]string
		want    string
	}{
		"unknown key":          {content: "device: a\nservr: {}\n", want: "unknown key servr"},
		"unknown nested key":   {content: "podman:\n  sock: /x\n", want: "unknown key sock"},
		"unknown key storage":  {content: "keyStorage: cloud\n", want: `keyStorage: "cloud" is unknown: use file or tpm`},
		"relative TPM":         {content: "tpm: {device: tpm0}\n", want: `tpm.device: "tpm0" is not an absolute path`},
		"unknown credentials":  {content: "credentials: {type: nkey}\n", want: `credentials.type: "nkey" is unknown; known here: x509`},
		"bad device":           {content: "device: Pi.1\n", want: "device"},
		"plain-text server":    {content: "server: {urls: ['nats://a:4222']}\n", want: "server.urls[0]"},
		"relative state":       {content: "stateDir: state\n", want: "stateDir"},
		"relative root":        {content: "bindRoots: [srv]\n", want: "bindRoots[0]"},
		"relative socket":      {content: "podman: {socket: podman.sock}\n", want: "podman.socket"},
		"relative auth file":   {content: "podman: {authFile: auth.json}\n", want: "podman.authFile"},
		"short life of images": {content: "images: {keepUnneeded: 1m}\n", want: "images.keepUnneeded: 1m0s is under 1h"},
		"too much":             {content: "images: {pruneAbove: 100}\n", want: "images.pruneAbove: 100 is not a percentage"},
		"upside down":          {content: "images: {pruneAbove: 50}\n", want: "images.pruneDownTo: 75 is not a percentage from 1 to 50"},
		"no mirror":            {content: "images: {mirrors: [docker.io]}\n", want: `images.mirrors[0]: "docker.io" is not of the form REGISTRY=https://HOST[:PORT]`},
		"no bandwidth":         {content: "images: {bandwidth: ['512Ki', fast]}\n", want: `images.bandwidth[1]: "fast" is not of the form`},
		"no transfers":         {content: "images: {transfers: 0}\n", want: "images.transfers: 0 is not a number from 1 to 16"},
		"env percentage":       {content: "device: a\n", env: map[string]string{"FLEET_AGENT_IMAGES_PRUNE_ABOVE": "85%"}, want: `"85%" is not a whole number`},
		"percentage":           {content: "images: {pruneAbove: 85%}\n", want: `images.pruneAbove: "85%" is not a whole number`},
		"level":                {content: "log: {level: loud}\n", want: "log.level"},
		"format":               {content: "log: {format: xml}\n", want: "log.format"},
		"interval":             {content: "heartbeatInterval: 1ms\n", want: "heartbeatInterval"},
		"negative interval":    {content: "snapshotInterval: -1s\n", want: "snapshotInterval"},
		"duration":             {content: "heartbeatInterval: soon\n", want: "soon"},
		"env duration":         {content: "device: a\n", env: map[string]string{"FLEET_AGENT_SNAPSHOT_INTERVAL": "x"}, want: "FLEET_AGENT_SNAPSHOT_INTERVAL"},
		"no mapping":           {content: "- a\n", want: "agent.yaml"},
		"no YAML":              {content: "a: [", want: "agent.yaml"},
		"two documents":        {content: "device: a\n---\ndevice: b\n", want: "more than one"},
		"empty":                {want: "the file is empty"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(write(t, tt.content), true, env(tt.env), nil)
			if err == nil {
				err = cfg.Validate()
			}
			if !errors.Is(err, settings.ErrInvalid) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tt.want)
			}
		})
	}
}

// A device that nobody can reach once its agent does not start is not stopped by a
// variable that never meant anything, as at an upgrade.
func TestUnknownVariableStopsNoAgent(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(write(t, "device: a\n"), true, env(map[string]string{"FLEET_AGENT_STATEDIR": "/x"}), nil)
	if err != nil || cfg.Device != "a" {
		t.Errorf("configuration %+v, %v", cfg, err)
	}
}

func TestEnrolledKeepsWhatTheOperatorWrote(t *testing.T) {
	t.Parallel()
	path := write(t, "# our gateway\nlabels:\n  site: north # the old building\nserver:\n  urls: [tls://old:4222]\nbindRoots:\n  - /srv\n")
	got, err := config.Enrolled(path, "pi-1", []string{"tls://new:4222"}, config.Proxy{})
	if err != nil {
		t.Fatal(err)
	}
	want := "# our gateway\nlabels:\n  site: north # the old building\nserver:\n  urls:\n    - tls://new:4222\nbindRoots:\n  - /srv\ndevice: pi-1\ncredentials:\n  type: x509\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	again, err := config.Enrolled(write(t, string(got)), "pi-1", []string{"tls://new:4222"}, config.Proxy{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(again)); diff != "" {
		t.Error(diff)
	}
}

func TestEnrolledStartsFromNothing(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"empty": "", "comment": "# nothing\n", "null": "null\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := config.Enrolled(write(t, content), "pi-1", []string{"tls://a:4222"}, config.Proxy{})
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(write(t, string(got)), true, env(nil), nil)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Device != "pi-1" || cfg.Validate() != nil {
				t.Errorf("got %s", got)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("device: a\n")
	f.Add("server: &a {urls: [*a]}\n")
	f.Fuzz(func(t *testing.T, content string) {
		path := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(path, true, env(nil), nil)
		if err != nil || cfg.Validate() != nil {
			return
		}
		if _, err := config.Enrolled(path, "pi-1", nil, config.Proxy{}); err != nil {
			t.Errorf("a valid file cannot be edited: %v", err)
		}
	})
}

func TestProxy(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"proxy: {url: 'http://proxy.test:3128', noProxy: [10.0.0.0/8, .test], credentialsFile: /etc/fleet-agent/proxy}": "",
		"proxy: {url: 'http://device:opensesame@proxy.test:3128'}":                                                      "proxy.url: no user belongs here",
		"proxy: {url: 'proxy.test:3128'}":                                                                               "proxy.url: it must have the form http://HOST:PORT",
		"proxy: {url: 'http://proxy.test:3128', noProxy: ['a b']}":                                                      "proxy.noProxy: it must list hosts",
		"proxy: {url: 'http://proxy.test:3128', credentialsFile: proxy}":                                                `proxy.credentialsFile: "proxy" is not an absolute path`,
		"proxy: {credentialsFile: /etc/fleet-agent/proxy}":                                                              "proxy.url: it is missing",
		"proxy: {url: '', noProxy: [gateway.test]}\nserver: {urls: ['tls://a:4222']}":                                   "proxy.url: it is missing",
	} {
		cfg, err := config.Load(write(t, content), true, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = cfg.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "opensesame")) {
			t.Errorf("%s: %v, want %q", content, err, want)
		}
	}
}

func TestEnrolledThroughAProxy(t *testing.T) {
	t.Parallel()
	way := config.Proxy{URL: "http://proxy.test:3128", NoProxy: []string{"10.0.0.0/8"}, CredentialsFile: "/etc/fleet-agent/proxy"}
	got, err := config.Enrolled(write(t, "# ours\nproxy:\n  url: http://old.test:1 # of before\n"), "pi-1", []string{"tls://a:4222"}, way)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(write(t, string(got)), true, nil, nil)
	if diff := cmp.Diff(way, cfg.Proxy); diff != "" || err != nil || !strings.Contains(string(got), "# of before") {
		t.Error(diff, err, string(got))
	}
}

func TestFileRoots(t *testing.T) {
	t.Parallel()
	for root, says := range map[string]string{
		"/etc/press": "", "/srv": "", "/home/press": "",
		"etc":                "is not an absolute path",
		"/etc/press/":        "is not an absolute path",
		"/etc/a b":           "is not an absolute path",
		"/etc/%i":            "is not an absolute path",
		"/":                  "which is the agent's own: list a narrower directory",
		"/etc":               "has something to do with /etc/fleet-agent",
		"/var/lib":           "which is the agent's own",
		"/tmp/x":             "is in /tmp",
		"/etc/fleet-agent/x": "which is the agent's own",
	} {
		cfg := config.Default()
		cfg.FileRoots = []string{root}
		err := cfg.Validate()
		if says == "" && err != nil || says != "" && (!errors.Is(err, settings.ErrInvalid) || !strings.Contains(err.Error(), "fileRoots[0]") || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v, want %q", root, err, says)
		}
	}
}

// TestPrivileges: every list of allow is shown, so that nobody has to read the file.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	if got := (&config.Config{}).Privileges(); len(got) > 0 {
		t.Errorf("nothing is %q", got)
	}
	c := config.Config{BindRoots: []string{"/srv", "/data"}, FileRoots: []string{"/etc/app"}, Allow: config.Allow{
		Devices: []string{"/dev/ttyUSB0"}, CDIDevices: []string{"nvidia.com/gpu"}, HostServices: []string{"udev"}, HostNamespaces: []string{"network"},
		Capabilities: []string{"SYS_TIME"}, Sysctls: []string{"net.core.somaxconn"}, SeccompUnconfined: true, SELinuxOptions: true,
	}}
	want := []string{
		"bindRoots /srv, /data", "fileRoots /etc/app", "allow.devices /dev/ttyUSB0", "allow.cdiDevices nvidia.com/gpu", "allow.hostServices udev", "allow.hostNamespaces network",
		"allow.capabilities SYS_TIME", "allow.sysctls net.core.somaxconn", "allow.seccompUnconfined", "allow.seLinuxOptions",
	}
	if diff := cmp.Diff(want, c.Privileges()); diff != "" {
		t.Error(diff)
	}
	if n := reflect.TypeFor[config.Allow]().NumField(); n != len(want)-2 {
		t.Errorf("allow has %d keys", n)
	}
}
