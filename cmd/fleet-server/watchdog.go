package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

// serveWatchdog tells systemd that the server lives, as long as its API and its port
// answer. It returns at once when the unit has no watchdog.
func (n notifier) serveWatchdog(ctx context.Context, server embedserver.Ready) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil //nolint:nilerr // without a watchdog nobody waits to be told
	}
	interval /= 3
	client := &http.Client{Timeout: interval, Transport: &http.Transport{
		DisableKeepAlives: true, // each time as a client that comes anew
		// It asks itself, and whether it answers is all that it wants to know.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	url := "https://" + net.JoinHostPort(reachable(server.API), port(server.API)) + "/livez?exclude=etcd"
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if lives(ctx, interval, server.Live) && answers(ctx, client, url) {
			n.send(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func lives(ctx context.Context, within time.Duration, live func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return live(ctx) == nil
}

// answers reports whether the port answers a client that comes anew. That strangers ask
// too much at this moment is an answer, too: a server that they can have restarted is
// theirs.
func answers(ctx context.Context, client *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusTooManyRequests
}

// reachable is the host at which this machine reaches a listener.
func reachable(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err != nil || ip.IsUnspecified() {
		return "localhost"
	}
	return host
}
