package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/logging/capture"
	"fleet.nationtech.io/fleet/pkg/rights"
	"fleet.nationtech.io/fleet/pkg/version"
)

// gcPercent trades processor time for memory: an idle server takes 119 MB
// instead of 128 MB, and a gateway has less of the latter to spare.
const gcPercent = 50

// startGCPercent is that until the server is ready. With 10,000 Devices, the start takes a
// quarter less of the processor and, at its peak, a tenth more memory; from then on an
// idle server has 2 to 5 MB more.
const startGCPercent = 200

// How soon after the start, and how often from then on, memory that is not used
// any more is given back to the system. Go alone keeps it for minutes. It costs
// a collection, 10 ms of an idle server's time, and 600 page faults.
const (
	firstTidy = 5 * time.Second
	nextTidy  = time.Minute
)

func tidyMemory(ctx context.Context, log *slog.Logger) error {
	timer := time.NewTimer(firstTidy)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			debug.FreeOSMemory()
			if err := releaseProgram(); err != nil {
				log.Debug("memory of the program", "error", err) // it takes more, that is all
			}
			timer.Reset(nextTidy)
		}
	}
}

// writers is what a command writes to.
type writers interface {
	OutOrStdout() io.Writer
	ErrOrStderr() io.Writer
}

func newRun(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the server in the foreground",
		Example: "  fleet-server run\n" +
			"  fleet-server run --data-dir ~/fleet --api-listen 127.0.0.1:6443 --tls-san gateway.example.com",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if account, other := rights.Of(o.DataDir); other {
				return fmt.Errorf("%s belongs to uid %d, and root does not follow what that account may put there: start the server as that account, or with systemctl start fleet-server", o.DataDir, account.UID)
			}
			log, err := o.logger(cmd)
			if err != nil {
				return err
			}
			capture.Install(log)
			collect := func(percent int) {
				if o.env.Get("GOGC") == "" {
					debug.SetGCPercent(percent)
				}
			}
			collect(startGCPercent)
			limitMemory(o.env.Get("GOMEMLIMIT"), embedserver.SoftMemoryLimit())
			notify := newNotifier()
			log.Info("starting", "version", version.Version, "data_dir", o.DataDir)
			return embedserver.Run(cmd.Context(), embedserver.Config{
				DataDir:   o.DataDir,
				APIListen: o.APIListen, NATSListen: o.NATSListen, EnrollListen: o.EnrollListen,
				TLSSANs: o.sans(cmd.Flags(), log), Advertise: o.Advertise, ScoreTypes: o.ScoreTypes, Images: o.images(), Logger: log,
			}, func(a embedserver.Ready) {
				collect(gcPercent)
				paceCollections(collect)
				announce(cmd.OutOrStdout(), a)
				notify.send(daemon.SdNotifyReady)
				keep := func(name string, loop func(context.Context) error) {
					go func() { _ = a.Panics.Loop(name, log).Keep(cmd.Context(), loop) }() // it returns no error
				}
				keep("memory", func(ctx context.Context) error { return tidyMemory(ctx, log) })
				keep("watchdog", func(ctx context.Context) error { return notify.serveWatchdog(ctx, a) })
				context.AfterFunc(cmd.Context(), func() { notify.send(daemon.SdNotifyStopping) })
			})
		},
	}
}

// limitMemory sets the soft limit of memory in bytes, unless an operator chose another, which
// Go has set then, or nobody knows what the machine has.
func limitMemory(chosen string, limit int64) {
	if chosen == "" && limit > 0 {
		debug.SetMemoryLimit(limit)
	}
}

// announce tells the person at the terminal that the server works, and what to
// do next.
func announce(w io.Writer, a embedserver.Ready) {
	enroll := net.JoinHostPort(a.Host, port(a.Enroll))
	fmt.Fprintf(w, "fleet-server is ready\n")
	fmt.Fprintf(w, "  API      https://%s\n", net.JoinHostPort(a.Host, port(a.API)))
	fmt.Fprintf(w, "  devices  tls://%s\n", net.JoinHostPort(a.Host, port(a.NATS)))
	fmt.Fprintf(w, "  enroll   https://%s\n", enroll)
	fmt.Fprintf(w, "\nUse it:          export KUBECONFIG=%s\n", a.Kubeconfig)
	fmt.Fprintf(w, "Add a device:    fleet-server token create --pre-approve\n")
	fmt.Fprintf(w, "  on the device: fleet-agent enroll --server https://%s\n", enroll)
}

func port(a net.Addr) string {
	_, p, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return p
}
