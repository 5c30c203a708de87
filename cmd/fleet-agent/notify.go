package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// statusInterval is the time between two updates of the status line in
// `systemctl status`, when the unit has no watchdog.
const statusInterval = 30 * time.Second

// notifier tells systemd how the agent is. Without systemd it does nothing.
type notifier struct {
	agent    service
	log      *slog.Logger
	interval time.Duration
}

func newNotifier(a service, log *slog.Logger) *notifier {
	n := &notifier{agent: a, log: log, interval: statusInterval}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of the unit is not served", "error", err)
	}
	if watchdog > 0 {
		n.interval = min(n.interval, watchdog/2)
	}
	return n
}

func (n *notifier) ready() { n.send(daemon.SdNotifyReady) }

// run serves the watchdog until ctx ends. To make the status line takes every
// lock of the agent, so an agent that hangs stops doing so.
func (n *notifier) run(ctx context.Context) {
	ticker := time.NewTicker(n.interval)
	defer ticker.Stop()
	for {
		n.send("STATUS=" + n.status() + "\n" + daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (n *notifier) status() string {
	s := n.agent.Status()
	failed := 0
	for _, d := range s.Deployments {
		if d.Phase == wire.PhaseFailed {
			failed++
		}
	}
	connection := "not connected"
	if s.Connected {
		connection = "connected to " + s.Server
	}
	return printable.Line(fmt.Sprintf("%s; %d Deployments, %d failed", connection, len(s.Deployments), failed))
}

func (n *notifier) send(state string) { notify(state, n.log) }

func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Debug("systemd was not notified", "error", err)
	}
}

// notifyStopping tells systemd that the process is about to end.
func notifyStopping(log *slog.Logger) { notify(daemon.SdNotifyStopping, log) }
