package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/logging"
)

const defaultConfigFile = "/etc/fleet-server/config.yaml"

// config is everything that the server can be told, by a flag, the
// environment (FLEET_SERVER_ and the flag's name in capitals) or the file.
type config struct {
	DataDir      string   `json:"dataDir"`
	APIListen    string   `json:"apiListen"`
	NATSListen   string   `json:"natsListen"`
	EnrollListen string   `json:"enrollListen"`
	TLSSANs      []string `json:"tlsSANs"`
	Advertise    []string `json:"advertise"`
	LogFormat    string   `json:"logFormat"`
	LogLevel     string   `json:"logLevel"`
}

func defaultConfig() config {
	return config{
		DataDir:   "/var/lib/fleet-server",
		APIListen: ":6443", NATSListen: ":4222", EnrollListen: ":8443",
		LogFormat: logging.FormatText, LogLevel: "info",
	}
}

var (
	// yamlNoise is what the YAML library says of its own steps.
	yamlNoise = strings.NewReplacer("error unmarshaling JSON: ", "", "while decoding JSON: ", "", "error converting YAML to JSON: ", "", "json: ", "")
	// sanForm is the form of a name in a certificate, which can be a wildcard.
	sanForm = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)
)

// options is the configuration on its way from its four sources.
type options struct {
	config
	file   string
	getenv func(string) string
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.file, "config", defaultConfigFile, "configuration file; a missing default file is fine")
	f.StringVar(&o.DataDir, "data-dir", o.DataDir, "directory that holds everything the server keeps")
	f.StringVar(&o.APIListen, "api-listen", o.APIListen, "host:port of the Kubernetes API")
	f.StringVar(&o.NATSListen, "nats-listen", o.NATSListen, "host:port that devices connect to")
	f.StringVar(&o.EnrollListen, "enroll-listen", o.EnrollListen, "host:port that devices enroll at")
	f.StringSliceVar(&o.TLSSANs, "tls-san", nil, "further host names or IP addresses for the server's certificates")
	f.StringSliceVar(&o.Advertise, "advertise", nil, "NATS URLs (tls://HOST:PORT) that devices are told to use; unset, each keeps the host that it enrolled at")
	f.StringVar(&o.LogFormat, "log-format", o.LogFormat, "text or json")
	f.StringVar(&o.LogLevel, "log-level", o.LogLevel, "debug, info, warn or error")
}

// load fills the configuration: flag over environment over file over default.
// The flags are parsed already, so what they set is put back at the end.
func (o *options) load(f *pflag.FlagSet) error {
	flags := map[string]string{}
	f.Visit(func(p *pflag.Flag) { flags[p.Name] = text(p) })
	if _, set := flags["config"]; !set {
		if v := o.getenv(envName("config")); v != "" {
			o.file = v
		}
	}
	o.config = defaultConfig()
	if err := o.readFile(); err != nil {
		return err
	}
	var err error
	f.VisitAll(func(p *pflag.Flag) {
		value, source := o.getenv(envName(p.Name)), "environment variable "+envName(p.Name)
		if v, set := flags[p.Name]; set {
			value, source = v, "flag --"+p.Name
			// Most likely a variable of the shell that is not set.
			if v == "" && p.Value.Type() == "string" {
				err = errors.Join(err, fmt.Errorf("%s: it must not be empty", source))
			}
		}
		if value != "" && p.Name != "config" && p.Name != "help" {
			if e := set(p, value); e != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", source, e))
			}
		}
	})
	return errors.Join(err, o.validate())
}

func (o *options) readFile() error {
	data, err := os.ReadFile(o.file)
	if errors.Is(err, fs.ErrNotExist) && o.file == defaultConfigFile {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &o.config); err != nil {
		return fmt.Errorf("reading %s: %s", o.file, yamlNoise.Replace(err.Error()))
	}
	return nil
}

// sans returns a function that returns the further names of the server. What
// the file says may change while the server runs; flags and the environment
// stay. A file that cannot be read leaves what it said before.
func (o *options) sans(f *pflag.FlagSet, log *slog.Logger) func() []string {
	const flag = "tls-san"
	var (
		mu      sync.Mutex // guards what follows
		last    = o.TLSSANs
		problem string
	)
	if f.Changed(flag) || o.getenv(envName(flag)) != "" {
		return func() []string { return last }
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		now := options{file: o.file}
		err := now.readFile()
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
	dir, err := filepath.Abs(c.DataDir)
	if c.DataDir == "" || err != nil {
		return fmt.Errorf("data-dir: %q is not a directory", c.DataDir)
	}
	c.DataDir = dir
	for name, listen := range map[string]string{"api-listen": c.APIListen, "nats-listen": c.NATSListen, "enroll-listen": c.EnrollListen} {
		if _, _, err := net.SplitHostPort(listen); err != nil {
			return fmt.Errorf("%s: %q must have the form host:port or :port", name, listen)
		}
	}
	if err := c.validateSANs(); err != nil {
		return err
	}
	for _, a := range c.Advertise {
		if u, err := url.Parse(a); err != nil || u.Scheme != "tls" || u.Host == "" {
			return fmt.Errorf("advertise: %q must have the form tls://HOST:PORT", a)
		}
	}
	return nil
}

func (c *config) validateSANs() error {
	for _, san := range c.TLSSANs {
		if net.ParseIP(san) == nil && !sanForm.MatchString(san) {
			return fmt.Errorf("tls-san: %q must be a host name or an IP address, without a port", san)
		}
	}
	return nil
}

func (c *config) logger(cmd writers) (*slog.Logger, error) {
	return logging.New(cmd.ErrOrStderr(), c.LogFormat, c.LogLevel)
}

func envName(flag string) string {
	return "FLEET_SERVER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// text is the inverse of set.
func text(p *pflag.Flag) string {
	if s, ok := p.Value.(pflag.SliceValue); ok {
		return strings.Join(s.GetSlice(), ",")
	}
	return p.Value.String()
}

func set(p *pflag.Flag, value string) error {
	if s, ok := p.Value.(pflag.SliceValue); ok {
		return s.Replace(strings.Split(value, ","))
	}
	return p.Value.Set(value)
}
