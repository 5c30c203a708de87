package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
)

// Errors of Reach; match them with errors.Is.
var (
	// ErrAnotherFleet: what answers has a certificate of another authority.
	ErrAnotherFleet = errors.New("it belongs to another fleet, or is no fleet-server: to move this device there, enroll it again with fleet-agent enroll --force")
	// ErrName: the certificate is of the fleet, and not for this address.
	ErrName = errors.New("its certificate does not name this address: add it to tlsSANs on the server")
	// ErrRefused: the server ended the connection of this device.
	ErrRefused = errors.New("it refuses this device: see its log")
)

// Reach tries the addresses of servers, tls:// for the connection and https:// for
// certificates, as the device with this certificate, and whether they belong to the fleet
// of the roots. way is nil for the direct one. It returns the first error. With an address
// for certificates it goes by the server's time: that of the device may be wrong.
func Reach(ctx context.Context, way *proxy.Proxy, servers []string, cert *tls.Certificate, roots *x509.CertPool) error {
	now := clock.New(clock.Config{})
	servers = slices.Clone(servers)
	slices.SortStableFunc(servers, func(a, b string) int { return strings.Compare(a[:1], b[:1]) }) // https first
	for _, server := range servers {
		if err := reach(ctx, way, server, cert, roots, now); err != nil {
			return fmt.Errorf("%s: %w", server, explained(err))
		}
	}
	return nil
}

func reach(ctx context.Context, way *proxy.Proxy, server string, cert *tls.Certificate, roots *x509.CertPool, now *clock.Clock) error {
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	if u.Scheme != "https" {
		return Probe{Proxy: way}.dial(ctx, server, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{*cert}, Time: now.Now})
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return now.Learn(ctx, clock.Source{Server: u, Roots: roots, Certificate: cert, Dial: way.Dialer(new(net.Dialer)).DialContext})
}

func explained(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return ErrAnotherFleet
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("%w (%w)", ErrName, err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return fmt.Errorf("%w (%w)", ErrRefused, err)
	}
	return err
}
