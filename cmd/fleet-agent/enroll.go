package main

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/version"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// envToken has the enrollment token. Other users can read a process's
	// arguments, but not its environment.
	envToken = "FLEET_TOKEN"
	// maxToken bounds what is read as a token, in bytes.
	maxToken = 4096
)

// enrollment is what the command enroll was told.
type enrollment struct {
	server, tokenFile, name string
	force                   bool
	// proxy has what flags say.
	proxy config.Proxy
}

func newEnroll(f flags) *cobra.Command {
	var e enrollment
	cmd := &cobra.Command{
		Use:   "enroll --server https://HOST:8443",
		Short: "Obtain a certificate for this device with an enrollment token",
		Long: `Obtain a certificate for this device with an enrollment token.

The token is read from --token-file, else from $` + envToken + `, else from
standard input; on a terminal it is asked for and not shown. Enrolling again
with the same server is safe.

A proxy that --proxy names, or else agent.yaml, or $HTTPS_PROXY with $NO_PROXY, is
written into agent.yaml: the agent and podman go through it from then on. The
password of $HTTPS_PROXY goes into a file that other accounts cannot read.

The fingerprint of the device's key is printed first. An operator who has to
approve the device sees the same on the server.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, log, err := f.load(cmd, false)
			if err != nil {
				return err
			}
			way, err := e.wayOut(&cfg, environment())
			if err != nil {
				return err
			}
			token, err := e.token(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if e.server, err = enroll.CanonicalServer(e.server); err != nil {
				return err
			}
			path, _ := f.path()
			return e.enroll(cmd.Context(), cfg, path, token, way, cmd.OutOrStdout(), log)
		},
	}
	cmd.Flags().StringVar(&e.server, "server", "", "enrollment address of the server: https://HOST:8443")
	cmd.Flags().StringVar(&e.tokenFile, "token-file", "", "file that holds the enrollment token")
	cmd.Flags().StringVar(&e.name, "name", "", "device id (default: host name and a hash of the machine id)")
	cmd.Flags().BoolVar(&e.force, "force", false, "make a new key, and replace the identity that this device has")
	cmd.Flags().StringVar(&e.proxy.URL, "proxy", "", "HTTP proxy to go through from now on: http://HOST:PORT")
	cmd.Flags().StringSliceVar(&e.proxy.NoProxy, "no-proxy", nil, "hosts, domains and networks that are reached without the proxy")
	cmd.Flags().StringVar(&e.proxy.CredentialsFile, "proxy-credentials-file", "", "file that holds USER:PASSWORD for the proxy, and stays there")
	_ = cmd.MarkFlagRequired("server") // fails for unknown flags only
	return cmd
}

func (e *enrollment) token(ctx context.Context, stdin io.Reader, prompt io.Writer) (string, error) {
	if e.tokenFile != "" {
		f, err := os.Open(e.tokenFile)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		defer f.Close()
		stdin = f
	} else if token := os.Getenv(envToken); token != "" {
		return token, nil
	}
	data, err := readToken(ctx, stdin, prompt)
	if errors.Is(err, context.Canceled) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "", fmt.Errorf("no enrollment token: use --token-file, $%s or standard input", envToken)
	}
	return string(data), nil
}

func readToken(ctx context.Context, from io.Reader, prompt io.Writer) ([]byte, error) {
	if f, ok := from.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return askToken(ctx, f, prompt)
	}
	return io.ReadAll(io.LimitReader(from, maxToken))
}

// askToken reads the token from the person at a terminal, without showing it.
func askToken(ctx context.Context, terminal *os.File, prompt io.Writer) (token []byte, err error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(prompt, "Enrollment token (it is not shown): ")
	defer fmt.Fprintln(prompt)
	done := make(chan struct{})
	var read []byte
	var readErr error
	go func() {
		defer close(done)
		read, readErr = term.ReadPassword(fd)
	}()
	select {
	case <-done:
		return read, readErr
	case <-ctx.Done():
		// What reads cannot be interrupted: it ends with the process, and would leave
		// a terminal that shows nothing.
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

func (e *enrollment) enroll(ctx context.Context, cfg config.Config, configPath, token string, way *proxy.Proxy, out io.Writer, log *slog.Logger) error {
	state, err := openState(cfg.StateDir, log)
	if err != nil {
		return err
	}
	identity, key, err := e.identity(state, keyStorage(cfg), cfg)
	if err != nil {
		return err
	}
	// The key is on disk before the server sees it: after a power cut the same
	// key asks again, and the token is not used twice.
	if err := inState(cfg.StateDir, func() error { return state.SavePendingIdentity(identity) }); err != nil {
		return err
	}
	shown, err := fingerprint(key)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "device %s has a key with the fingerprint %s\n", identity.Device, shown); err != nil {
		return err
	}
	result, err := enroll.Enroll(ctx, enroll.Request{
		Server: e.server, Token: token, Device: identity.Device, Key: key, Inventory: inventory(), HardwareID: hardwareID(log),
		Clock: clock.New(clock.Config{Keeper: goodTime{state}, Log: log}), Proxy: way,
		Pending: func() {
			fmt.Fprintf(out, "device %s waits for approval by an operator, who compares this fingerprint with what `fleet-server device approve %s` shows\n", identity.Device, identity.Device)
		},
		Busy: func(why error) { fmt.Fprintf(out, "the server is asked again for some minutes: %v\n", why) },
	})
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok && refusal.Code == wire.RefusedRevoked {
		err = fmt.Errorf("%w; --force makes a new key", err)
		return errors.Join(err, inState(cfg.StateDir, state.DropPendingIdentity)) // it would be asked with again
	}
	if err != nil {
		return err
	}
	identity.Certificate, identity.Root, identity.Servers = result.Certificate, result.Root, result.Servers
	if err := e.finish(state, identity, configPath, way); err != nil {
		return err
	}
	if way != nil {
		fmt.Fprintf(out, "the agent and podman go through the proxy %s, which %s names from now on\n", way.Address(), configPath)
	}
	_, err = fmt.Fprintf(out, "device %s is enrolled; %s\n", identity.Device, next(ctx, state.Dir()))
	return err
}

// openState opens the state directory, which may belong to the agent's account
// already.
func openState(dir string, log *slog.Logger) (state *store.Store, err error) {
	err = inState(dir, func() error {
		state, err = store.Open(dir, log)
		return err
	})
	return state, err
}

// goodTime keeps the time in the state directory.
type goodTime struct{ *store.Store }

// GoodTime implements clock.Keeper.
func (g goodTime) GoodTime() (t time.Time) {
	_ = inState(g.Dir(), func() error { t = g.Store.GoodTime(); return nil }) // zero is no time
	return t
}

// SaveGoodTime implements clock.Keeper.
func (g goodTime) SaveGoodTime(t time.Time) error {
	return inState(g.Dir(), func() error { return g.Store.SaveGoodTime(t) })
}

// next is what to do once the device is enrolled.
func next(ctx context.Context, dir string) string {
	if _, err := control.ReadStatus(ctx, dir); errors.Is(err, control.ErrNotRunning) {
		return "start the agent with: systemctl enable --now fleet-agent"
	}
	return "the agent that runs has to begin anew: systemctl restart fleet-agent"
}

func inventory() wire.Inventory {
	i := facts.Collect("/")
	i.AgentVersion = version.Version
	return i
}

// hardwareID is for tokens that are for certain machines only; others do without.
func hardwareID(log *slog.Logger) string {
	id, err := facts.HardwareID("/")
	if err != nil {
		log.Info("the enrollment names no hardware id", "error", err)
	}
	return id
}

// keyStorage makes keys where the configuration says.
func keyStorage(cfg config.Config) keystore.Storage {
	tpm := &keystore.TPM{Path: cfg.TPM.Device}
	if cfg.KeyStorage == config.KeyStorageTPM {
		return keystore.Any{New: tpm, TPM: tpm}
	}
	return keystore.Any{New: keystore.File{}, TPM: tpm}
}

// finish writes what enrollment brought. The identity comes last: with it the
// device counts as enrolled.
func (e *enrollment) finish(state *store.Store, identity *store.Identity, configPath string, way *proxy.Proxy) error {
	if err := makeReadable(filepath.Dir(configPath)); err != nil {
		return fmt.Errorf("making the configuration directory: %w", err)
	}
	kept, err := keepProxy(way, filepath.Dir(configPath))
	if err != nil {
		return err
	}
	content, err := config.Enrolled(configPath, identity.Device, identity.Servers, kept)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(configPath, content, 0o644); err != nil {
		return err
	}
	if err := inState(state.Dir(), func() error { return state.SaveIdentity(identity) }); err != nil {
		return err
	}
	return handOver(state.Dir())
}

// makeReadable makes a directory that is not there, for the agent's account to read
// in whatever the umask of root is.
func makeReadable(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// identity returns the identity to enroll with: the one that is there, or whose
// enrollment is under way, when it is for the same server and name; or else a
// new one.
func (e *enrollment) identity(state *store.Store, keys keystore.Storage, cfg config.Config) (*store.Identity, crypto.Signer, error) {
	device := e.device(cfg)
	var old, pending *store.Identity
	var underWay bool
	err := inState(state.Dir(), func() (err error) {
		old, err = state.Identity()
		pending, underWay = state.PendingIdentity()
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNoIdentity) {
		return nil, nil, err
	}
	if old != nil && !e.force {
		if sameServer(old.Server, e.server) && old.Device == device {
			key, err := keys.Load(old.Key)
			return old, key, err
		}
		return nil, nil, fmt.Errorf("this device is enrolled already as %s at %s: --force replaces that identity", old.Device, old.Server)
	}
	// A key that asked before is good for a new identity, unless it is the old one's,
	// which asked without --force.
	if underWay && sameServer(pending.Server, e.server) && pending.Device == device && (old == nil || pending.Key != old.Key) {
		key, err := keys.Load(pending.Key)
		return pending, key, err
	}
	key, err := keys.Create()
	if err != nil {
		return nil, nil, err
	}
	return &store.Identity{Device: device, Enrollment: store.NewEnrollment(), Server: e.server, Key: key.Text()}, key, nil
}

// sameServer compares with a server that an earlier version wrote down as it was
// typed.
func sameServer(old, canonical string) bool {
	server, err := enroll.CanonicalServer(old)
	return err == nil && server == canonical
}

func (e *enrollment) device(cfg config.Config) string {
	switch {
	case e.name != "":
		return e.name
	case cfg.Device != "":
		return cfg.Device
	}
	return enroll.DefaultDevice(facts.Collect("/").Hostname, facts.MachineID("/"))
}
