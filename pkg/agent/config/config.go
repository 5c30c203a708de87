// Package config is the agent's configuration: agent.yaml, the environment and
// the flags, in rising order, as one struct that is validated before anything
// happens.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/settings"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Program says where the agent's settings come from.
var Program = settings.Program{
	Prefix: "FLEET_AGENT_", File: "/etc/fleet-agent/agent.yaml",
	Warn: func(line string) { slog.Warn("a variable is ignored", "reason", line) },
}

// CredentialsX509 is the credentials type of a client certificate that
// enrollment obtained.
const CredentialsX509 = "x509"

// Values of Config.KeyStorage.
const (
	// KeyStorageFile: the key is in the state directory.
	KeyStorageFile = "file"
	// KeyStorageTPM: the key is bound to the device's TPM 2.0.
	KeyStorageTPM = "tpm"
)

// Config is everything that the agent can be told.
type Config struct {
	// Device is the device id; enrollment writes it.
	Device string `yaml:"device" env:"FLEET_AGENT_DEVICE"`
	Server Server `yaml:"server"`
	// Credentials say how the device proves its identity.
	Credentials Credentials `yaml:"credentials"`
	// KeyStorage is where new device keys are made: KeyStorageFile or
	// KeyStorageTPM. The key that the device has stays until it is renewed.
	KeyStorage string `yaml:"keyStorage" env:"FLEET_AGENT_KEY_STORAGE"`
	TPM        TPM    `yaml:"tpm"`
	// StateDir holds identity, manifest and bodies.
	StateDir string `yaml:"stateDir" env:"FLEET_AGENT_STATE_DIR"`
	Podman   Podman `yaml:"podman"`
	// Proxy is the way to the server and to registries.
	Proxy Proxy `yaml:"proxy"`
	// Images say which images are removed.
	Images Images `yaml:"images"`
	// BindRoots are the directories under which score volumes with a hostPath may
	// lie; none by default.
	BindRoots []string `yaml:"bindRoots" env:"FLEET_AGENT_BIND_ROOTS"`
	// FileRoots are the directories below which scores of type FilesV0 may put files;
	// none by default.
	FileRoots []string `yaml:"fileRoots" env:"FLEET_AGENT_FILE_ROOTS"`
	// Allow says what containers may have of the device besides.
	Allow Allow `yaml:"allow"`
	// Labels are asked for; the server decides which the Device gets.
	Labels map[string]string `yaml:"labels" env:"FLEET_AGENT_LABELS"`
	Log    Log               `yaml:"log"`
	// HeartbeatInterval is the time between two heartbeats.
	HeartbeatInterval time.Duration `yaml:"heartbeatInterval" env:"FLEET_AGENT_HEARTBEAT_INTERVAL"`
	// SnapshotInterval is the time between two snapshot requests that nothing
	// else asked for; it varies by 20 %.
	SnapshotInterval time.Duration `yaml:"snapshotInterval" env:"FLEET_AGENT_SNAPSHOT_INTERVAL"`
}

// Server says where the fleet is.
type Server struct {
	// URLs are those of NATS: tls://HOST:4222.
	URLs []string `yaml:"urls" env:"FLEET_AGENT_SERVER_URLS"`
}

// Credentials say how the device proves its identity.
type Credentials struct {
	// Type is CredentialsX509.
	Type string `yaml:"type" env:"FLEET_AGENT_CREDENTIALS_TYPE"`
}

// TPM says which TPM is used.
type TPM struct {
	// Device is a path: a device, or the unix socket of a software TPM.
	Device string `yaml:"device" env:"FLEET_AGENT_TPM_DEVICE"`
}

// Podman says where podman listens.
type Podman struct {
	// Socket is a path; when it is empty the agent looks for it.
	Socket string `yaml:"socket" env:"FLEET_AGENT_PODMAN_SOCKET"`
	// AuthFile holds credentials of registries in the format of podman login; it
	// need not exist. When it is empty, auth.json beside agent.yaml is meant.
	AuthFile string `yaml:"authFile" env:"FLEET_AGENT_PODMAN_AUTH_FILE"`
}

// Proxy is an HTTP proxy. When it has no URL, HTTPS_PROXY and NO_PROXY of the
// environment count.
type Proxy struct {
	// URL is http://HOST:PORT, without a user.
	URL string `yaml:"url" env:"FLEET_AGENT_PROXY_URL"`
	// NoProxy are hosts, domains, addresses and networks that are reached without it.
	NoProxy []string `yaml:"noProxy" env:"FLEET_AGENT_PROXY_NO_PROXY"`
	// CredentialsFile has USER:PASSWORD.
	CredentialsFile string `yaml:"credentialsFile" env:"FLEET_AGENT_PROXY_CREDENTIALS_FILE"`
}

// Settings are those for package proxy.
func (p Proxy) Settings() proxy.Settings { return proxy.Settings(p) }

// Images say which images the agent removes, of those that it pulled and that neither the
// manifest, nor the previous one, nor a container needs.
type Images struct {
	// KeepUnneeded is how long such an image is kept, while the device is on; zero for ever.
	KeepUnneeded time.Duration `yaml:"keepUnneeded" env:"FLEET_AGENT_IMAGES_KEEP_UNNEEDED"`
	// PruneAbove is the percentage of the image store's file system that may be used before
	// such images are removed, the longest unneeded first, until PruneDownTo is used; zero
	// for any.
	PruneAbove  int `yaml:"pruneAbove" env:"FLEET_AGENT_IMAGES_PRUNE_ABOVE"`
	PruneDownTo int `yaml:"pruneDownTo" env:"FLEET_AGENT_IMAGES_PRUNE_DOWN_TO"`
	// Direct: podman pulls by itself, and what follows means nothing.
	Direct bool `yaml:"direct" env:"FLEET_AGENT_IMAGES_DIRECT"`
	// Mirrors are of the form REGISTRY=https://HOST[:PORT], in the order in which they are
	// asked before the gateway and the registry.
	Mirrors []string `yaml:"mirrors" env:"FLEET_AGENT_IMAGES_MIRRORS"`
	// Bandwidth are lines of the form "[HH:MM-HH:MM ]BYTES", with Ki and Mi: bytes a second by
	// the device's time of day; the first that covers a time counts.
	Bandwidth []string `yaml:"bandwidth" env:"FLEET_AGENT_IMAGES_BANDWIDTH"`
	// Transfers is how many layers are fetched at a time.
	Transfers int `yaml:"transfers" env:"FLEET_AGENT_IMAGES_TRANSFERS"`
	// ResumeMiB bounds what is kept of interrupted layers, in MiB; 0 for nothing.
	ResumeMiB int `yaml:"resumeMiB" env:"FLEET_AGENT_IMAGES_RESUME_MIB"`
}

// Log says what is logged, and how.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level" env:"FLEET_AGENT_LOG_LEVEL" flag:"log-level" usage:"debug, info, warn or error"`
	// Format is text or json.
	Format string `yaml:"format" env:"FLEET_AGENT_LOG_FORMAT" flag:"log-format" usage:"text or json"`
}

// MaxHeartbeatInterval is the most that an agent lets pass between two heartbeats,
// whatever its configuration says: the server lets another session of the device take
// over after 45 s of silence, and takes the device for offline after 90 s.
const MaxHeartbeatInterval = 40 * time.Second

// Default returns the configuration of an agent that is told nothing.
func Default() Config {
	return Config{
		Credentials:       Credentials{Type: CredentialsX509},
		KeyStorage:        KeyStorageFile,
		TPM:               TPM{Device: "/dev/tpmrm0"},
		StateDir:          "/var/lib/fleet-agent",
		Images:            Images{KeepUnneeded: 30 * 24 * time.Hour, PruneAbove: 85, PruneDownTo: 75, Transfers: 1, ResumeMiB: 1024},
		Log:               Log{Level: "info", Format: "text"},
		HeartbeatInterval: 30 * time.Second,
		SnapshotInterval:  15 * time.Minute,
	}
}

// Load reads the file over the defaults, the environment over the file, and the
// flags, which may be nil, over both. A file that does not exist is an error only
// when required is set. The result is not validated yet.
func Load(path string, required bool, env settings.Env, flags *pflag.FlagSet) (Config, error) {
	cfg := Default()
	err := Program.Load(&cfg, path, !required, env, flags)
	return cfg, err
}

// Validate returns an error that wraps settings.ErrInvalid and names the key unless the
// agent can run with the configuration.
func (c *Config) Validate() error {
	if c.Device != "" {
		if err := wire.ValidateDevice(c.Device); err != nil {
			return fmt.Errorf("%w: device: %w", settings.ErrInvalid, err)
		}
	}
	for _, check := range []func() error{c.validateServers, c.validateCredentials, c.validatePaths, c.validateFileRoots, c.validateProxy, c.Allow.validate, c.validateImages, c.validateLog, c.validateIntervals} {
		if err := check(); err != nil {
			return fmt.Errorf("%w: %w", settings.ErrInvalid, err)
		}
	}
	return nil
}

func (c *Config) validateServers() error {
	for i, s := range c.Server.URLs {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "tls" || u.Host == "" || u.User != nil {
			return fmt.Errorf("server.urls[%d]: %.200q is not of the form tls://HOST:4222", i, s)
		}
	}
	return nil
}

func (c *Config) validateCredentials() error {
	if c.Credentials.Type != CredentialsX509 {
		return fmt.Errorf("credentials.type: %.64q is unknown; known here: %s", c.Credentials.Type, CredentialsX509)
	}
	if c.KeyStorage != KeyStorageFile && c.KeyStorage != KeyStorageTPM {
		return fmt.Errorf("keyStorage: %.32q is unknown: use %s or %s", c.KeyStorage, KeyStorageFile, KeyStorageTPM)
	}
	return nil
}

func (c *Config) validatePaths() error {
	if !filepath.IsAbs(c.TPM.Device) {
		return fmt.Errorf("tpm.device: %.200q is not an absolute path", c.TPM.Device)
	}
	if !filepath.IsAbs(c.StateDir) {
		return fmt.Errorf("stateDir: %.200q is not an absolute path", c.StateDir)
	}
	if c.Podman.Socket != "" && !filepath.IsAbs(c.Podman.Socket) {
		return fmt.Errorf("podman.socket: %.200q is not an absolute path", c.Podman.Socket)
	}
	if c.Podman.AuthFile != "" && !filepath.IsAbs(c.Podman.AuthFile) {
		return fmt.Errorf("podman.authFile: %.200q is not an absolute path", c.Podman.AuthFile)
	}
	for i, root := range c.BindRoots {
		if !filepath.IsAbs(root) {
			return fmt.Errorf("bindRoots[%d]: %.200q is not an absolute path", i, root)
		}
	}
	return nil
}

func (c *Config) validateProxy() error {
	p := c.Proxy
	if p.URL == "" && (len(p.NoProxy) > 0 || p.CredentialsFile != "") {
		return errors.New("proxy.url: it is missing, so the rest of proxy means nothing")
	}
	if p.CredentialsFile != "" && !filepath.IsAbs(p.CredentialsFile) {
		return fmt.Errorf("proxy.credentialsFile: %.200q is not an absolute path", p.CredentialsFile)
	}
	_, err := proxy.New(p.Settings())
	switch {
	case errors.Is(err, proxy.ErrNoProxy):
		return fmt.Errorf("proxy.noProxy: %w", err)
	case err != nil:
		return fmt.Errorf("proxy.url: %w", err)
	}
	return nil
}

func (c *Config) validateImages() error {
	i := c.Images
	switch {
	case i.KeepUnneeded < 0 || i.KeepUnneeded > 0 && i.KeepUnneeded < time.Hour:
		return fmt.Errorf("images.keepUnneeded: %v is under 1h: use 0s to keep images for ever", i.KeepUnneeded)
	case i.PruneAbove < 0 || i.PruneAbove > 99:
		return fmt.Errorf("images.pruneAbove: %d is not a percentage from 1 to 99, or 0 for never", i.PruneAbove)
	case i.PruneAbove > 0 && (i.PruneDownTo < 1 || i.PruneDownTo > i.PruneAbove):
		return fmt.Errorf("images.pruneDownTo: %d is not a percentage from 1 to %d, which is images.pruneAbove", i.PruneDownTo, i.PruneAbove)
	}
	return i.validateTransfers()
}

func (c *Config) validateLog() error {
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log.level: %.32q is unknown: use debug, info, warn or error", c.Log.Level)
	}
	switch c.Log.Format {
	case "text", "json":
		return nil
	default:
		return fmt.Errorf("log.format: %.32q is unknown: use text or json", c.Log.Format)
	}
}

func (c *Config) validateIntervals() error {
	if c.HeartbeatInterval < time.Second {
		return fmt.Errorf("heartbeatInterval: %v is under 1s", c.HeartbeatInterval)
	}
	if c.SnapshotInterval < time.Second {
		return fmt.Errorf("snapshotInterval: %v is under 1s", c.SnapshotInterval)
	}
	return nil
}
