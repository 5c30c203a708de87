package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/settings"
)

// defaultsFile is the environment that systemd gives the service.
const defaultsFile = "/etc/default/fleet-agent"

// environment is that of the process, and what the service has besides, so that
// commands see the settings that the service sees.
func environment() settings.Env {
	return append(os.Environ(), ofService(defaultsFile)...)
}

// ofService reads variables as systemd does, as far as settings go. A file that
// cannot be read has none.
func ofService(path string) settings.Env {
	data, err := settings.Read(path)
	if err != nil {
		return nil
	}
	var env settings.Env
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if ok && !strings.ContainsAny(line[:1], "#;") {
			env = append(env, strings.TrimSpace(name)+"="+strings.Trim(strings.TrimSpace(value), `"'`))
		}
	}
	return env
}

// wayOut returns the proxy of a valid configuration, or else that of the
// environment, which is a spare one: it may have been meant for other programs.
func wayOut(cfg config.Config, env settings.Env) (*proxy.Proxy, error) {
	way, err := proxy.New(cfg.Proxy.Settings())
	if err != nil || way != nil {
		return way, err
	}
	way, err = ofEnvironment(env)
	return way.Spare(), err
}

func ofEnvironment(env settings.Env) (*proxy.Proxy, error) {
	either := func(name string) string {
		if value := env.Get(name); value != "" {
			return value
		}
		return env.Get(strings.ToLower(name))
	}
	way, err := proxy.FromEnvironment(either("HTTPS_PROXY"), either("NO_PROXY"))
	switch {
	case errors.Is(err, proxy.ErrNoProxy):
		return nil, fmt.Errorf("NO_PROXY: %w", err)
	case err != nil:
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	return way, nil
}

// wayOut returns the proxy to enroll through, which is the one to keep: so what the
// environment names has to work, too.
func (e *enrollment) wayOut(cfg *config.Config, env settings.Env) (*proxy.Proxy, error) {
	if e.proxy.URL != "" {
		cfg.Proxy.URL = e.proxy.URL
	}
	if len(e.proxy.NoProxy) > 0 {
		cfg.Proxy.NoProxy = e.proxy.NoProxy
	}
	if e.proxy.CredentialsFile != "" {
		cfg.Proxy.CredentialsFile = e.proxy.CredentialsFile
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	way, err := proxy.New(cfg.Proxy.Settings())
	if err != nil || way != nil {
		return way, err
	}
	return ofEnvironment(env)
}

// proxyLogin is the file, beside agent.yaml, that keeps what HTTPS_PROXY has as user
// and password.
const proxyLogin = "proxy-credentials"

// keepProxy returns what agent.yaml has to say of a proxy, and writes down its user.
func keepProxy(way *proxy.Proxy, dir string) (config.Proxy, error) {
	kept := config.Proxy(way.Settings())
	login := way.Login()
	if login == "" {
		return kept, nil
	}
	kept.CredentialsFile = filepath.Join(dir, proxyLogin)
	attributes := atomicfile.Attributes{Mode: 0o600}
	if gid, ok := agentGroup(); ok {
		attributes = atomicfile.Attributes{Mode: 0o640, Owner: &atomicfile.Owner{GID: gid}}
	}
	if err := atomicfile.Replace(kept.CredentialsFile, strings.NewReader(login+"\n"), attributes); err != nil {
		return kept, fmt.Errorf("keeping the credentials of the proxy: %w", err)
	}
	return kept, nil
}

// agentGroup is the group of the agent's account, if root can give it a file.
func agentGroup() (gid int, ok bool) {
	account, err := user.Lookup(agentUser)
	if err != nil || os.Geteuid() != 0 {
		return 0, false
	}
	gid, err = strconv.Atoi(account.Gid)
	return gid, err == nil
}

// repositoryWay is the proxy to the gateway before the device may have a
// configuration.
func repositoryWay(f flags) (*proxy.Proxy, error) {
	path, asked := f.path()
	cfg, err := config.Load(path, asked, environment(), f.FlagSet)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return nil, err
	}
	return wayOut(cfg, environment())
}

func newPodmanProxy(f flags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "podman-proxy --output FILE",
		Short: "Write the proxy for podman into a file, as the service does at its start",
		Long: `Write the proxy for podman into a file, as the service does at its start, before
setup-user gives it to podman. The file is root's alone: it may hold a password.
It is empty when there is no proxy.`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			way, err := wayOut(cfg, environment())
			if err != nil {
				return err
			}
			conf, err := way.ContainersConf()
			if err != nil {
				return err
			}
			return atomicfile.Write(output, []byte(conf), 0o600)
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "the `FILE`")
	_ = cmd.MarkFlagRequired("output") // fails for unknown flags only
	return cmd
}
