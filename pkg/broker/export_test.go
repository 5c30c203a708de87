package broker

import (
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
const LogBurst = logBurst

type Refused = refused

func NewRefused(disconnect func(uint64)) *Refused { return newRefused(disconnect) }

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
