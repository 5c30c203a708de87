package broker

import (
	"fmt"
	"log/slog"
	"net"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
)

// MarkerTTL is how long a marker of a removed key stays.
const MarkerTTL = markerTTL

// InProcessConn implements nats.InProcessConnProvider.
func (b *Broker) InProcessConn() (net.Conn, error) { return b.server.InProcessConn() }

// What the tests see of the unexported parts.
const (
	LogBurst   = logBurst
	MaxPending = maxPending
)

type Refused = refused

func NewRefused(disconnect func(uint64)) *Refused {
	return newRefused(disconnect, slog.New(slog.DiscardHandler))
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

const BarTime = barTime

type Bars = bars

func NewBars() *Bars { return newBars() }

func (b *bars) Add(device string) { b.add(device) }

func (b *bars) Has(device string) bool { return b.has(device) }

// ClientFormat is the format of a message about a client, as NATS builds it.
func ClientFormat(name, format string) string {
	return fmt.Sprintf("%s - %q - %q - %s", "127.0.0.1:4242 - cid:7", "v1.55.0:go:"+name, "DEV/edge-1", format)
}

// Quoted is fmt.Sprintf for formats with the input of a client.
func Quoted(format, v string) string { return fmt.Sprintf(format, v) }
