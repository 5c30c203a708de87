package broker_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	const of = `127.0.0.1:4242 - cid:7 - "v1.55.0:go:edge-1" - "DEV/edge-1" - `
	for format, want := range map[string]string{
		of + "Publish Violation - Subject %q":                            "publish",
		of + "Publish Violation - Reply %q":                              "reply",
		of + `Subscription Violation - Subject "a", SID 1`:               "subscribe",
		"[::1]:4242 - cid:7 - TLS handshake error: %v%s":                 "tls",
		"127.0.0.1:4242 - cid:7 - authentication error":                  "authentication",
		of + "Slow Consumer Detected: MaxPending of %d Exceeded":         "slowConsumer",
		of + "maximum payload exceeded: %d vs %d":                        "payload",
		of + "Slow Consumer Recovered: Flush took %.3fs":                 "",
		`127.0.0.1:4242 - cid:7 - "v1:x - \"Publish Violation" - a note`: "",
		"Server is ready": "",
	} {
		r := broker.NewRefused(nil)
		broker.NewNATSLog(slog.New(slog.DiscardHandler), r).Errorf(format, "x", "y")
		got := ""
		for _, reason := range broker.Reasons() {
			if testutil.ToFloat64(r.Counter().WithLabelValues(reason)) > 0 {
				got = reason
			}
		}
		if got != want {
			t.Errorf("%q counts as %q, want %q", format, got, want)
		}
	}
}

func TestLinesAboutConnectionsAreFew(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := broker.NewNATSLog(slog.New(slog.NewTextHandler(&out, nil)), broker.NewRefused(func(uint64) {}))
	for range 100 * broker.LogBurst {
		l.Errorf("127.0.0.1:4242 - cid:7 - Publish Violation - Subject %q", "x")
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n < broker.LogBurst || n > 2*broker.LogBurst {
		t.Errorf("%d lines were logged", n)
	}
	l.Errorf("disk full")
	if !strings.Contains(out.String(), "disk full") {
		t.Error("the server's own error is not logged")
	}
}

// NATS takes the name of a client for a part of a format.
func TestNamesOfClientsAreNoFormats(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := broker.NewNATSLog(slog.New(slog.NewTextHandler(&out, nil)), broker.NewRefused(nil))
	name := "%[1]99999s%[1]99999s"
	l.Errorf(`127.0.0.1:4242 - cid:7 - "v1:go:`+name+`" - "DEV/edge-1" - Publish Violation - Subject %q`, "$SYS.>")
	if out.Len() > 1000 || !strings.Contains(out.String(), "$SYS.>") {
		t.Errorf("the line has %d bytes: %.300s", out.Len(), out.String())
	}
}

// The id of a session is a secret, and the log may be read by others.
func TestLogNamesSessionsByTheirLabels(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := broker.NewNATSLog(slog.New(slog.NewTextHandler(&out, nil)), broker.NewRefused(nil))
	l.Errorf(broker.ClientFormat(brokertest.Session, "Subscription Violation - Subject %q"), "_INBOX_edge-1_"+brokertest.Session+".>")
	if strings.Contains(out.String(), brokertest.Session) || strings.Count(out.String(), wire.SessionLabel(brokertest.Session)) != 2 {
		t.Errorf("the log says %s", out.String())
	}
}

func TestRefusedFloodEndsTheConnection(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	closed := make(chan struct{})
	flood := b.Connect("edge-1", nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	other := b.Connect("edge-2")
	for flood.Publish("$KV.desired-state.edge-2.shop.web", nil) == nil {
	}
	<-closed
	if err := other.Flush(); err != nil {
		t.Errorf("another device was dropped: %v", err)
	}
	if n := testutil.CollectAndCount(b.Collectors()[0]); n == 0 {
		t.Error("nothing was counted")
	}
}
