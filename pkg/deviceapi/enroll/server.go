package enroll

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"time"

	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/handshake"
)

const (
	readHeaderTimeout = 10 * time.Second
	requestTimeout    = 30 * time.Second
	maxHeader         = 8 << 10
	// maxOfDevice is how many connections one device has as itself.
	maxOfDevice = 8
)

// ServerConfig is what a listener for strangers needs.
type ServerConfig struct {
	// Handler answers, and Enrollment knows whose certificate a request comes with.
	Handler    http.Handler
	Enrollment *Handler
	// Certificate returns the serving certificate. It is asked at each handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Handshakes  *handshake.Gate
	Refusals    *Refusals
	// Guard survives mistakes of the program.
	Guard *guard.Guard
}

// Serve serves a listener of package connlimit until ctx ends, or the listener fails.
func Serve(ctx context.Context, l net.Listener, c ServerConfig) error {
	// Renewals verify the certificate that they come with.
	config := &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.Certificate, ClientAuth: tls.RequestClientCert}
	web := &http.Server{
		Handler:           connlimit.Handler(c.Refusals.Handler(c.Guard.Handler(c.Handler)), maxOfDevice, c.Enrollment.Holder),
		TLSConfig:         c.Handshakes.Config(config, nil),
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: requestTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       log.New(c.Refusals, "", 0), ConnContext: connlimit.ConnContext,
		// Requests are few and short. HTTP/2 would let one stranger ask for a hundred
		// things at once over each connection.
		Protocols: new(http.Protocols),
	}
	web.Protocols.SetHTTP1(true)
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	if err := web.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// DefaultPlaces are for a process that may open 65,536 files.
var DefaultPlaces = connlimit.Limits{Strangers: 2048, OfHost: 256, OfSite: 1024, Local: 256, Known: 1024}
