package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/logging"
	"fleet.nationtech.io/fleet/pkg/registry/cache"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/settings"
)

// program says where the server's settings come from.
var program = settings.Program{Prefix: "FLEET_SERVER_", File: "/etc/fleet-server/config.yaml"}

// config is everything that the server can be told.
type config struct {
	DataDir        string   `yaml:"dataDir" env:"FLEET_SERVER_DATA_DIR" flag:"data-dir" usage:"directory that holds everything the server keeps"`
	APIListen      string   `yaml:"apiListen" env:"FLEET_SERVER_API_LISTEN" flag:"api-listen" usage:"host:port of the Kubernetes API"`
	NATSListen     string   `yaml:"natsListen" env:"FLEET_SERVER_NATS_LISTEN" flag:"nats-listen" usage:"host:port that devices connect to"`
	EnrollListen   string   `yaml:"enrollListen" env:"FLEET_SERVER_ENROLL_LISTEN" flag:"enroll-listen" usage:"host:port that devices enroll at"`
	TLSSANs        []string `yaml:"tlsSANs" env:"FLEET_SERVER_TLS_SAN" flag:"tls-san" usage:"further host names or IP addresses for the server's certificates"`
	Advertise      []string `yaml:"advertise" env:"FLEET_SERVER_ADVERTISE" flag:"advertise" usage:"NATS URLs (tls://HOST:PORT) that devices are told to use; unset, each keeps the host that it enrolled at"`
	ScoreTypes     []string `yaml:"scoreTypes" env:"FLEET_SERVER_SCORE_TYPES" flag:"score-types" usage:"types of score of interpreters on devices, which this server passes on unread"`
	ImageUpstreams []string `yaml:"imageUpstreams" env:"FLEET_SERVER_IMAGE_UPSTREAMS" flag:"image-upstream" usage:"registries whose images the server keeps for devices, such as docker.io or registry.example.com:5000"`
	ImageAuthFile  string   `yaml:"imageAuthFile" env:"FLEET_SERVER_IMAGE_AUTH_FILE" flag:"image-auth-file" usage:"file with the logins of these registries, as podman login --authfile writes it"`
	ImageCacheSize string   `yaml:"imageCacheSize" env:"FLEET_SERVER_IMAGE_CACHE_SIZE" flag:"image-cache-size" usage:"how much room these images may take, such as 20Gi"`
	LogFormat      string   `yaml:"logFormat" env:"FLEET_SERVER_LOG_FORMAT" flag:"log-format" usage:"text or json"`
	LogLevel       string   `yaml:"logLevel" env:"FLEET_SERVER_LOG_LEVEL" flag:"log-level" usage:"debug, info, warn or error"`
}

func defaultConfig() config {
	return config{
		DataDir:   "/var/lib/fleet-server",
		APIListen: ":6443", NATSListen: ":4222", EnrollListen: ":8443",
		ImageCacheSize: "20Gi",
		LogFormat:      logging.FormatText, LogLevel: "info",
	}
}

// sanForm is the form of a name in a certificate, which can be a wildcard.
var sanForm = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)

// scoreTypeForm is that of a Deployment's spec.score.type.
var scoreTypeForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// options is the configuration, and where it came from.
type options struct {
	config
	env  settings.Env
	file string
}

func (o *options) addFlags(f *pflag.FlagSet) {
	defaults := defaultConfig()
	program.AddFlags(f, &defaults)
}

// load fills the configuration. Flags are parsed already.
func (o *options) load(f *pflag.FlagSet) error {
	if err := refuseEmpty(f); err != nil {
		return err
	}
	o.file, _ = program.Path(o.env, f)
	o.config = defaultConfig()
	if err := program.Load(&o.config, o.file, o.file == program.File, o.env, f); err != nil {
		return err
	}
	if !f.Changed("data-dir") && !filepath.IsAbs(o.DataDir) {
		return fmt.Errorf("dataDir: %q is not an absolute path", o.DataDir)
	}
	return o.validate()
}

// refuseEmpty returns an error for a flag without a value: most likely a variable
// of the shell is not set.
func refuseEmpty(f *pflag.FlagSet) (err error) {
	f.Visit(func(p *pflag.Flag) {
		if err == nil && p.Value.Type() == "string" && p.Value.String() == "" {
			err = fmt.Errorf("flag --%s: it must not be empty", p.Name)
		}
	})
	return err
}

// sans returns a function that returns the further names of the server. What
// the file says may change while the server runs; flags and the environment
// stay. A file that cannot be read leaves what it said before.
func (o *options) sans(f *pflag.FlagSet, log *slog.Logger) func() []string {
	var (
		mu      sync.Mutex // guards what follows
		last    = o.TLSSANs
		problem string
	)
	if f.Changed("tls-san") || o.env.Get(program.Prefix+"TLS_SAN") != "" {
		return func() []string { return last }
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		var now config
		err := settings.File(o.file, &now)
		if errors.Is(err, fs.ErrNotExist) && o.file == program.File {
			err = nil
		}
		if err == nil {
			err = now.validateSANs()
		}
		if err == nil {
			last, problem = now.TLSSANs, ""
		} else if err.Error() != problem {
			problem = err.Error()
			log.Warn("the names of the server stay as they were", "error", err)
		}
		return last
	}
}

// validate names the key that is wrong.
func (c *config) validate() error {
	if strings.HasPrefix(c.DataDir, "~") {
		return fmt.Errorf("data-dir: %q: no shell replaced the ~: write the whole path", c.DataDir)
	}
	dir, err := filepath.Abs(c.DataDir)
	if c.DataDir == "" || err != nil {
		return fmt.Errorf("data-dir: %q is not a directory", c.DataDir)
	}
	c.DataDir = dir
	for name, listen := range map[string]string{"api-listen": c.APIListen, "nats-listen": c.NATSListen, "enroll-listen": c.EnrollListen} {
		_, port, err := net.SplitHostPort(listen)
		if err != nil {
			return fmt.Errorf("%s: %q must have the form host:port or :port", name, listen)
		}
		if !isPort(port) {
			return fmt.Errorf("%s: %q: there is no port %q: use 1 to 65535", name, listen, port)
		}
	}
	if err := c.validateSANs(); err != nil {
		return err
	}
	if err := c.validateImages(); err != nil {
		return err
	}
	for _, t := range c.ScoreTypes {
		if !scoreTypeForm.MatchString(t) || score.IsKnown(t) {
			return fmt.Errorf("score-types: %.64q is not the name of a type that this server does not know, such as NoteV0", t)
		}
	}
	for _, a := range c.Advertise {
		if u, err := url.Parse(a); err != nil || u.Scheme != "tls" || u.Host == "" || !isPort(u.Port()) {
			return fmt.Errorf("advertise: %q must have the form tls://HOST:PORT", a)
		}
	}
	return nil
}

// isPort reports whether a port is a number that exists, or the name of a service;
// none is 0, which is any.
func isPort(port string) bool {
	_, err := net.LookupPort("tcp", port)
	return err == nil
}

func (c *config) validateSANs() error {
	for _, san := range c.TLSSANs {
		if net.ParseIP(san) == nil && !sanForm.MatchString(san) {
			return fmt.Errorf("tls-san: %q must be a host name or an IP address, without a port", san)
		}
	}
	return nil
}

// minImageCache is the smallest cache of images, in bytes: smaller ones hold no image.
const minImageCache = 64 << 20

func (c *config) validateImages() error {
	for _, u := range c.ImageUpstreams {
		if err := cache.Check(u); err != nil {
			return fmt.Errorf("image-upstream: %w", err)
		}
	}
	if c.ImageAuthFile != "" && !filepath.IsAbs(c.ImageAuthFile) {
		return fmt.Errorf("image-auth-file: %q is not an absolute path", c.ImageAuthFile)
	}
	if size, err := resource.ParseQuantity(c.ImageCacheSize); err != nil || size.Value() < minImageCache {
		return fmt.Errorf("image-cache-size: %q must be a size of 64Mi or more, such as 20Gi", c.ImageCacheSize)
	}
	return nil
}

// images are the settings of the cache of images, which are valid.
func (c *config) images() embedserver.ImageCache {
	size := resource.MustParse(c.ImageCacheSize)
	return embedserver.ImageCache{Upstreams: c.ImageUpstreams, AuthFile: c.ImageAuthFile, Size: size.Value()}
}

func (c *config) logger(cmd writers) (*slog.Logger, error) {
	return logging.New(cmd.ErrOrStderr(), c.LogFormat, c.LogLevel)
}
