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
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent"
	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/settings"
	"fleet.nationtech.io/fleet/pkg/version"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func newRun(f flags) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent until it is stopped; containers go on",
		Long: "Run the agent until it is stopped; containers go on.\n\n" +
			"Variables of the environment win over keys of agent.yaml, and flags over both. Lists are separated by\n" +
			"commas, and so are labels, NAME=VALUE:\n\n" + settings.Table(&config.Config{}),
		Args: cobra.NoArgs,
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

// runAgent runs the agent until ctx ends, or whatever takes its place once the
// device was revoked.
func runAgent(ctx context.Context, cfg config.Config, configPath string, log *slog.Logger) error {
	state, err := store.Open(cfg.StateDir, log.With("component", "store"))
	if err != nil {
		return err
	}
	if err := state.Lock(); err != nil {
		return err
	}
	defer state.Close()
	way, err := wayOut(cfg, environment())
	if err != nil {
		log.Warn("the proxy of the environment is ignored", "error", err)
	}
	if way != nil {
		log.Info("connections go through a proxy", "proxy", way)
	}
	runtime := podman.New(findSocket(cfg), authFile(cfg, configPath))
	defer runtime.Close()
	defer notifyStopping(log)
	for ctx.Err() == nil {
		run := runDevice
		_, wiping, err := state.Wiping()
		if err != nil {
			return err
		}
		if wiping {
			run = wipeDevice
		}
		if err := run(ctx, parts{cfg: cfg, configPath: configPath, state: state, runtime: runtime, way: way, log: log}); err != nil {
			return err
		}
	}
	return nil
}

// parts are what lives as long as the process.
type parts struct {
	cfg        config.Config
	configPath string
	state      *store.Store
	runtime    *podman.Client
	way        *proxy.Proxy
	log        *slog.Logger
}

// wipeDevice finishes what a wipe is, and idles.
func wipeDevice(ctx context.Context, p parts) error {
	p.log.Warn("fleet-agent starts on a revoked device", "version", version.Version)
	drivers, err := newDrivers(p, nil, nil, nil, nil, nil)
	if err != nil {
		return err
	}
	w := &agent.Wiper{Drivers: drivers.Drivers, Store: p.state, Version: version.Version, Log: p.log.With("component", "wiper")}
	return serve(ctx, w, p.state.Dir(), p.log)
}

// runDevice composes the agent and runs it until ctx ends, or until the device
// has to be wiped.
func runDevice(ctx context.Context, p parts) error {
	cfg, log := p.cfg, p.log
	credentials, err := loadCredentials(p)
	if err != nil {
		return err
	}
	identity := credentials.Identity()
	connection, err := link.Open(link.Config{
		Device:      identity.Device,
		Servers:     servers(cfg, identity),
		Credentials: credentials,
		Proxy:       p.way,
		Log:         log.With("component", "link"),
	})
	if err != nil {
		return err
	}
	defer connection.Close()
	images, err := newMirror(p, connection, credentials)
	if err != nil {
		log.Warn("images are pulled without a mirror: no progress, no limits, and an interrupted layer begins anew", "error", err)
	}
	var drivers drivers
	kept := crashes.New(p.state.CrashesDir(), func() crashes.Device { return situation(p.state, connection, drivers.containers) }, log.With("component", "crashes"))
	drivers, err = newDrivers(p, connection, func() string { return credentials.Identity().Root }, func(what string) runs.Keeper { return p.state.Notes(what) }, kept, images)
	if err != nil {
		return err
	}
	a := agent.New(agent.Config{
		Device:      identity.Device,
		HardwareID:  recordedHardwareID(log),
		Enrollment:  identity.Enrollment,
		Version:     version.Version,
		Servers:     servers(cfg, identity),
		Labels:      cfg.Labels,
		Link:        connection,
		Credentials: credentials,
		Store:       p.state,
		Drivers:     drivers.Drivers,
		Facts: func() wire.Inventory {
			inventory := facts.Collect("/")
			inventory.PodmanVersion = drivers.containers.Version()
			return inventory
		},
		Health: func() []wire.Condition {
			info, err := drivers.containers.Info()
			return health(cfg, credentials, connection, info, err)
		},
		Restart:           func() []string { return doctor.Restart(local(cfg).Read()) },
		Details:           func() control.Details { return details(p.state, connection, drivers.containers) },
		HeartbeatInterval: heartbeatInterval(cfg.HeartbeatInterval, log),
		SnapshotInterval:  cfg.SnapshotInterval,
		Log:               log,
	})
	log.Info("fleet-agent starts", "version", version.Version, "device", identity.Device)
	var beside sync.WaitGroup
	defer beside.Wait()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	if images != nil {
		beside.Go(func() {
			if err := images.Run(serving); err != nil {
				log.Error("the mirror for images ended", "error", err)
			}
		})
	}
	beside.Go(func() { sayWhatCannotWork(ctx, cfg, p.configPath, log) })
	defer log.Info("fleet-agent ends; containers go on")
	return serve(ctx, a, p.state.Dir(), log)
}

// heartbeatInterval bounds what an agent was told, which earlier ones took as it was.
func heartbeatInterval(configured time.Duration, log *slog.Logger) time.Duration {
	if configured > config.MaxHeartbeatInterval {
		log.Warn("heartbeatInterval is longer than the server waits: the agent uses the longest that works", "configured", configured, "used", config.MaxHeartbeatInterval)
	}
	return min(configured, config.MaxHeartbeatInterval)
}

// recordedHardwareID is for people who have to tell this machine from a copy of it.
func recordedHardwareID(log *slog.Logger) string {
	id, err := facts.RecordedHardwareID(facts.HardwareFile, "/")
	if err != nil {
		log.Info("the server is not told which machine this is", "error", err)
	}
	return id
}

// health is what the command doctor finds out too, as far as the agent's rights
// go.
func health(cfg config.Config, credentials *credential.Manager, connection *link.Link, info container.Info, err error) []wire.Condition {
	f := local(cfg).Read()
	f.AskGroups(groups(cfg))
	f.Podman.Value, f.Podman.Err = info, err
	if ahead, known := connection.Ahead(); known {
		f.Ahead = doctor.Fact[time.Duration]{Value: ahead}
	}
	s := credentials.Status()
	f.Identity = doctor.Fact[doctor.Identity]{Value: doctor.Identity{
		Device: credentials.Identity().Device, NotBefore: s.NotBefore, NotAfter: s.Expires, Renewal: s.Renewal,
	}}
	f.Agent = doctor.Fact[control.Status]{}
	if s.Err != nil {
		f.Agent.Value.RenewalError = s.Err.Error()
	}
	return doctor.Conditions(doctor.Examine(f))
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

// binds keeps containers from the agent's secrets, from podman's socket and from
// what podman runs by, whatever bindRoots says.
func binds(cfg config.Config, configPath string) bind.Policy {
	here := local(cfg)
	forbidden := []string{cfg.StateDir, filepath.Dir(configPath), filepath.Dir(here.Socket), filepath.Dir(authFile(cfg, configPath))}
	if account, err := here.Lookup(here.Workload); err == nil {
		forbidden = append(forbidden, account.HomeDir)
	}
	return bind.Policy{
		Roots: cfg.BindRoots, Forbidden: forbidden, Workload: func() *bind.IDs { return local(cfg).IDs() },
		Devices: cfg.Allow.Devices, Services: cfg.Allow.ServicePaths(), Groups: groups(cfg),
		Look: looker(cfg), Hidden: hidden(),
	}
}

// groups are those of the account as its processes have them, or nil where no helper knows.
func groups(cfg config.Config) func() ([]uint32, error) {
	if findSocket(cfg)() != podman.WorkloadSocket {
		return nil
	}
	return func() ([]uint32, error) {
		ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
		defer cancel()
		return (&helper.Client{Socket: helper.Socket}).Groups(ctx)
	}
}

// lookTimeout bounds what the helper takes to look along paths.
const lookTimeout = 5 * time.Second

// looker looks along paths as the account whose podman mounts them. Only that of the
// packages has a helper; any other one is that of the agent itself.
func looker(cfg config.Config) func(paths []string) (trail.Trail, error) {
	return func(paths []string) (trail.Trail, error) {
		if findSocket(cfg)() != podman.WorkloadSocket {
			return trail.Walk(paths), nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
		defer cancel()
		return (&helper.Client{Socket: helper.Socket}).Look(ctx, paths)
	}
}

// unitHides are the directories that the agent's unit hides: ProtectHome, PrivateTmp and
// PrivateDevices.
var unitHides = []string{"/home", "/root", "/tmp", "/var/tmp", "/dev"}

// hidden are the directories that this agent does not see.
func hidden() []string {
	if os.Getenv("RUNTIME_DIRECTORY") == "" {
		return nil // it runs in no unit
	}
	return unitHides
}

// service is what runs on the device.
type service interface {
	control.Agent
	Run(ctx context.Context, ready func())
	Refresh()
}

// serve runs a service, its control socket, and what systemd wants to know. It
// returns when the service does.
func serve(ctx context.Context, a service, dir string, log *slog.Logger) error {
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
	cancel()
	parts.Wait()
	return controlErr
}

// refreshOnHangup makes `systemctl reload` ask the server and look at every
// container at once.
func refreshOnHangup(ctx context.Context, a service) {
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

func loadCredentials(p parts) (*credential.Manager, error) {
	log := p.log.With("component", "credential")
	m, err := credential.Load(credential.Config{
		Store: p.state, Keys: keyStorage(p.cfg), Clock: clock.New(clock.Config{Keeper: p.state, Log: log}), Server: credential.Listener{Proxy: p.way}, Log: log,
	})
	if err != nil {
		return nil, err
	}
	identity := m.Identity()
	switch {
	case p.cfg.Device != "" && p.cfg.Device != identity.Device:
		return nil, fmt.Errorf("the configuration names device %q but the certificate %q: correct device, or enroll with --force --name %s",
			p.cfg.Device, identity.Device, p.cfg.Device)
	case len(servers(p.cfg, identity)) == 0:
		return nil, errors.New("no server is known: set server.urls in the configuration")
	}
	return m, nil
}

// servers are the NATS URLs of the configuration, or else those of enrollment.
func servers(cfg config.Config, identity *store.Identity) []string {
	if len(cfg.Server.URLs) > 0 {
		return cfg.Server.URLs
	}
	return identity.Servers
}
