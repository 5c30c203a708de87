package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serveWatchdog tells systemd that the server lives, as long as its API
// answers. It returns at once when the unit has no watchdog.
func (n notifier) serveWatchdog(ctx context.Context, api net.Addr) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	interval /= 3
	client := &http.Client{Timeout: interval, Transport: &http.Transport{
		DisableKeepAlives: true, // each time as a client that comes anew
		// It asks itself, and whether it answers is all that it wants to know.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	// A disk that hangs is left to the check of readiness: a restart does not fix it.
	url := "https://" + net.JoinHostPort(reachable(api), port(api)) + "/livez?exclude=etcd"
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if lives(ctx, client, url) {
			n.send(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func lives(ctx context.Context, client *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// reachable is the host at which this machine reaches a listener.
func reachable(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err != nil || ip.IsUnspecified() {
		return "localhost"
	}
	return host
}
