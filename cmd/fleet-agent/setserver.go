package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/rights"
)

const (
	// previousConfig follows the name of agent.yaml as it was before.
	previousConfig = ".previous"
	// maxConfig bounds agent.yaml, in bytes.
	maxConfig = 1 << 20
	// maxServers bounds the addresses that the agent tries.
	maxServers = 16
)

// move is what the command set-server was told.
type move struct {
	force bool
	// urls are the addresses of the connection, enrollment that of certificates or empty.
	urls       []string
	enrollment string
	// restart is the command that makes the running agent begin anew.
	restart []string
}

func newSetServer(f flags) *cobra.Command {
	m := move{restart: []string{"systemctl", "try-restart", "fleet-agent"}}
	cmd := &cobra.Command{
		Use:   "set-server tls://HOST:4222... [https://HOST:8443]",
		Short: "Change the addresses at which this device finds its server",
		Long: `Change the addresses at which this device finds its server, after that moved: all
of them, for the connection (tls://HOST:4222) and, if that moved too, the one for
certificates (https://HOST:8443). Every address is tried first: it has to answer,
and to belong to the fleet that this device is enrolled in. A server of another
fleet needs fleet-agent enroll.

Run it as root. The running agent is restarted, which touches no container, and
agent.yaml as it was is kept beside it as agent.yaml` + previousConfig + `.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, _, err := f.load(cmd, false)
			if err != nil {
				return err
			}
			if err := m.sort(args); err != nil {
				return err
			}
			path, _ := f.path()
			return m.move(cmd.Context(), cfg, path, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&m.force, "force", false, "do not try the addresses, for servers that are not there yet")
	return cmd
}

// sort tells the two kinds of address apart.
func (m *move) sort(args []string) error {
	for _, a := range args {
		if !strings.HasPrefix(strings.ToLower(a), "https:") {
			m.urls = append(m.urls, a)
			continue
		}
		if m.enrollment != "" {
			return errors.New("there is one address for certificates: give one https://HOST:8443")
		}
		var err error
		if m.enrollment, err = enroll.CanonicalServer(a); err != nil {
			return err
		}
	}
	switch {
	case len(m.urls) == 0:
		return errors.New("give the address of the connection, too: tls://HOST:4222")
	case len(m.urls) > maxServers:
		return fmt.Errorf("the agent tries %d addresses at most", maxServers)
	}
	return nil
}

func (m *move) move(ctx context.Context, cfg config.Config, path string, out io.Writer) error {
	content, err := config.WithServers(path, m.urls)
	if err != nil {
		return err
	}
	if !m.force {
		if err := m.try(ctx, cfg); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
	}
	if err := keepPrevious(path); err != nil {
		return err
	}
	if err := atomicfile.Write(path, content, 0o644); err != nil {
		return err
	}
	state := store.View(cfg.StateDir, slog.New(slog.DiscardHandler))
	if m.enrollment != "" {
		if err := inState(cfg.StateDir, func() error { return state.MoveIdentity(m.enrollment) }); err != nil {
			return err
		}
	}
	printable.Fprintf(out, "the server is at %s now; %s\n", strings.Join(m.urls, ", "), m.tell(ctx, cfg.StateDir))
	return nil
}

// try finds out whether the addresses answer and are this fleet's.
func (m *move) try(ctx context.Context, cfg config.Config) error {
	cert, roots, err := ownCertificate(cfg)
	if err != nil {
		return err
	}
	servers := m.urls
	if m.enrollment != "" {
		servers = append([]string{m.enrollment}, m.urls...)
	}
	way, err := wayOut(cfg, environment())
	if err != nil {
		return err
	}
	return doctor.Reach(ctx, way, servers, cert, roots)
}

// ownCertificate is what the device shows, and whom it trusts.
func ownCertificate(cfg config.Config) (cert *tls.Certificate, roots *x509.CertPool, err error) {
	var identity *store.Identity
	err = inState(cfg.StateDir, func() error {
		identity, err = store.View(cfg.StateDir, slog.New(slog.DiscardHandler)).Identity()
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	key, err := keyStorage(cfg).Load(identity.Key)
	if err != nil {
		return nil, nil, err
	}
	return identity.TLS(key)
}

// keepPrevious keeps the configuration as it is beside it.
func keepPrevious(path string) error {
	data, err := rights.ReadFile(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = atomicfile.Write(path+previousConfig, data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("keeping the configuration as it was: %w", err)
	}
	return nil
}

// tell makes a running agent take the new addresses, and says what became of that.
func (m *move) tell(ctx context.Context, dir string) string {
	const byHand = "restart the agent: systemctl restart fleet-agent"
	if _, err := control.ReadStatus(ctx, dir); errors.Is(err, control.ErrNotRunning) {
		return "the agent does not run"
	}
	if os.Geteuid() != 0 || exec.CommandContext(ctx, m.restart[0], m.restart[1:]...).Run() != nil {
		return byHand
	}
	return "the agent was restarted"
}
