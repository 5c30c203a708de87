package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent"
	"fleet.nationtech.io/fleet/pkg/agent/bind"
	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/interpret"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/version"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func newRun(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent until it is stopped; containers go on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, log, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			path, _ := f.path()
			return runAgent(cmd.Context(), cfg, path, log)
		},
	}
}

// runAgent composes the agent and runs it until ctx ends.
func runAgent(ctx context.Context, cfg config.Config, configPath string, log *slog.Logger) error {
	state, err := store.Open(cfg.StateDir, log.With("component", "store"))
	if err != nil {
		return err
	}
	if err := state.Lock(); err != nil {
		return err
	}
	defer state.Close()
	identity, err := loadIdentity(state, cfg)
	if err != nil {
		return err
	}
	connection, err := open(identity, cfg, log)
	if err != nil {
		return err
	}
	defer connection.Close()
	runtime := podman.New(findSocket(cfg), authFile(cfg, configPath))
	defer runtime.Close()
	a := agent.New(agent.Config{
		Device:            identity.Device,
		Enrollment:        identity.Enrollment,
		Version:           version.Version,
		Servers:           servers(cfg, identity),
		Labels:            cfg.Labels,
		Link:              connection,
		Runtime:           runtime,
		Store:             state,
		Interpreters:      interpret.Default(),
		Binds:             binds(cfg, configPath),
		Facts:             func() wire.Inventory { return facts.Collect("/") },
		HeartbeatInterval: cfg.HeartbeatInterval,
		SnapshotInterval:  cfg.SnapshotInterval,
		Log:               log,
	})
	log.Info("fleet-agent starts", "version", version.Version, "device", identity.Device)
	defer log.Info("fleet-agent ends; containers go on")
	return serve(ctx, a, state.Dir(), log)
}

func findSocket(cfg config.Config) func() string {
	return func() string { return podman.FindSocket(cfg.Podman.Socket) }
}

func authFile(cfg config.Config, configPath string) string {
	if cfg.Podman.AuthFile != "" {
		return cfg.Podman.AuthFile
	}
	return filepath.Join(filepath.Dir(configPath), "auth.json")
}

// binds keeps containers from the agent's secrets and from podman's socket,
// whatever bindRoots says.
func binds(cfg config.Config, configPath string) bind.Policy {
	return bind.Policy{
		Roots:     cfg.BindRoots,
		Forbidden: []string{cfg.StateDir, filepath.Dir(configPath), filepath.Dir(findSocket(cfg)()), filepath.Dir(authFile(cfg, configPath))},
	}
}

// serve runs the agent, its control socket, and what systemd wants to know.
func serve(ctx context.Context, a *agent.Agent, dir string, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	defer parts.Wait()
	var controlErr error
	parts.Go(func() {
		if controlErr = control.Serve(ctx, dir, a, log); controlErr != nil {
			cancel()
		}
	})
	parts.Go(func() { refreshOnHangup(ctx, a) })
	notifier := newNotifier(a, log)
	parts.Go(func() { notifier.run(ctx) })
	a.Run(ctx, notifier.ready)
	notifier.stopping()
	cancel()
	parts.Wait()
	return controlErr
}

// refreshOnHangup makes `systemctl reload` ask the server and look at every
// container at once.
func refreshOnHangup(ctx context.Context, a *agent.Agent) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			a.Refresh()
		}
	}
}

func loadIdentity(state *store.Store, cfg config.Config) (*store.Identity, error) {
	identity, err := state.Identity()
	if err != nil {
		return nil, err
	}
	switch {
	case !identity.Enrolled():
		return nil, fmt.Errorf("%w: the last attempt was not finished", store.ErrNoIdentity)
	case cfg.Device != "" && cfg.Device != identity.Device:
		return nil, fmt.Errorf("the configuration names device %q but the certificate %q: correct device, or enroll with --force --name %s",
			cfg.Device, identity.Device, cfg.Device)
	case len(servers(cfg, identity)) == 0:
		return nil, errors.New("no server is known: set server.urls in the configuration")
	}
	return identity, nil
}

// servers are the NATS URLs of the configuration, or else those of enrollment.
func servers(cfg config.Config, identity *store.Identity) []string {
	if len(cfg.Server.URLs) > 0 {
		return cfg.Server.URLs
	}
	return identity.Servers
}

func open(identity *store.Identity, cfg config.Config, log *slog.Logger) (*link.Link, error) {
	certificate, roots, err := identity.TLS()
	if err != nil {
		return nil, err
	}
	return link.Open(link.Config{
		Device:      identity.Device,
		Servers:     servers(cfg, identity),
		Credentials: link.Fixed{Cert: &certificate, Pool: roots},
		Log:         log.With("component", "link"),
	})
}
