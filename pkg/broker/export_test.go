package broker

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/guard"
)

// InProcessConn implements nats.InProcessConnProvider.
func (b *Broker) InProcessConn() (net.Conn, error) { return b.server.InProcessConn() }

// Own are the server's own connections.
func (b *Broker) Own() []*nats.Conn { return []*nats.Conn{b.Devices, b.Core, b.readers, b.system} }

// End ends a connection the way that NATS ends those that read too slowly.
func (b *Broker) End(c *nats.Conn) error {
	id, err := c.GetClientID()
	if err != nil {
		return err
	}
	return b.server.DisconnectClientByID(id)
}

// NewCheck returns the decision about new connections of devices.
func NewCheck(gate bus.Gate, operators Authority) func(server.ClientAuthentication) bool {
	a := &authenticator{
		operators: operators, now: time.Now, log: slog.New(slog.DiscardHandler),
		admission: bus.Admission{Gate: gate, Crowded: func() {}, Log: slog.New(slog.DiscardHandler), MayLog: rate.NewLimiter(0, 0).Allow},
	}
	return a.Check
}

// What the tests see of the unexported parts.
const (
	LogBurst   = logBurst
	MaxPending = bus.MaxPending
)

type Refused = refused

func NewRefused(disconnect func(uint64)) *Refused {
	log := slog.New(slog.DiscardHandler)
	return newRefused(disconnect, (*guard.Panics)(nil).Loop("test", log), log)
}

func (r *refused) Counter() *prometheus.CounterVec { return r.counter }

// Reasons lists what NATS can refuse for.
func Reasons() []string {
	var all []string
	for _, r := range reasons {
		all = append(all, r.reason)
	}
	return all
}

func NewNATSLog(log *slog.Logger, r *Refused) server.Logger { return newNATSLog(log, r) }

// ClientFormat is the format of a message about a client, as NATS builds it.
func ClientFormat(name, format string) string {
	return fmt.Sprintf("%s - %q - %q - %s", "127.0.0.1:4242 - cid:7", "v1.55.0:go:"+name, "DEV/edge-1", format)
}

// Quoted is fmt.Sprintf for formats with the input of a client.
func Quoted(format, v string) string { return fmt.Sprintf(format, v) }

// Canaries provoke the texts of NATS that bar devices.
func Canaries() map[string]string { return canaries }

func CheckCanaries(c map[string]string) error { return checkCanaries(c, canaryTimeout) }

func CheckCanariesWithin(c map[string]string, timeout time.Duration) error {
	return checkCanaries(c, timeout)
}

// Texts lists what NATS logs when it refuses something.
func Texts() (all []string) {
	for _, r := range reasons {
		all = append(all, r.text)
	}
	return all
}

// ByStrangers reports whether a text is about clients that are nobody's yet.
func ByStrangers(text string) bool {
	switch text {
	case "authentication error", "Authentication Timeout", "TLS handshake error", "TLS handshake timeout", "maximum connections exceeded":
		return true
	}
	return text == "Slow Consumer State" // of a connection for which "Detected" was logged
}

// StateOf is what TLS knows of a connection.
func (b *Broker) StateOf(c *nats.Conn) (*tls.ConnectionState, error) {
	id, err := c.GetClientID()
	if err != nil {
		return nil, err
	}
	return b.server.GetClient(id).GetTLSConnectionState(), nil
}
