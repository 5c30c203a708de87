package broker

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/handshake"
)

const (
	readyTimeout = 10 * time.Second

	// maxClosed is how many connections NATS remembers that have ended: nobody asks, and
	// each takes 6 KB.
	maxClosed = 16
	// ownConnections are those inside the process, with some to spare.
	ownConnections = 16
	// reconnectWait is for the server's own connections. NATS ends those that
	// read too slowly, and no device is answered until they are back.
	reconnectWait = 10 * time.Millisecond

	// DefaultMaxFileStore bounds the buckets on disk, in bytes.
	DefaultMaxFileStore = 1 << 30
)

// Config is what a broker needs.
type Config struct {
	// Listen is the host:port for devices.
	Listen string
	// Certificate returns the serving certificate. It is asked at each handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// DeviceCAs are the authorities whose certificates may be devices.
	DeviceCAs Authority
	// OperatorCAs are those whose certificates may be readers of the buckets.
	OperatorCAs Authority
	// Handshakes lets handshakes through; one of its own when nil.
	Handshakes *handshake.Gate
	// Places are those for connections; DefaultPlaces when zero.
	Places connlimit.Limits
	// Now is the clock that certificates are verified by.
	Now func() time.Time
	// StoreDir holds the JetStream files.
	StoreDir string
	// MaxFileStore bounds the files in bytes; DefaultMaxFileStore when zero.
	MaxFileStore int64
	// Gate decides which devices may connect.
	Gate bus.Gate
	// Panics counts mistakes of the program; nil for nobody.
	Panics *guard.Panics
	Logger *slog.Logger
}

// Authority is what issues the certificates of one kind of client.
type Authority interface {
	// Certificates are those that are trusted at present. It is asked at each
	// handshake.
	Certificates() []*x509.Certificate
}

// Broker is a running NATS server.
type Broker struct {
	// Devices is a connection in the devices' account.
	Devices *nats.Conn
	// Core is a connection in the account of the buckets.
	Core *nats.Conn

	system  *nats.Conn
	readers *nats.Conn
	server  *server.Server
	places  *connlimit.Listener
	gate    bus.Gate
	guard   *guard.Guard
	refused *refused
}

// Start runs a NATS server and connects to it.
func Start(c Config) (*Broker, error) {
	if c.Handshakes == nil {
		c.Handshakes = handshake.NewGate()
	}
	if c.Places == (connlimit.Limits{}) {
		c.Places = DefaultPlaces
	}
	b := &Broker{gate: c.Gate, guard: c.Panics.Loop("connections", c.Logger)}
	auth := &authenticator{
		guard: b.guard, operators: c.OperatorCAs, now: c.Now, log: c.Logger, secret: newSecret(),
		admission: bus.Admission{Gate: c.Gate, Log: c.Logger, MayLog: rate.NewLimiter(logRate, logBurst).Allow},
	}
	if err := checkTexts(); err != nil {
		return nil, err
	}
	listener, err := listen(c.Listen)
	if err != nil {
		return nil, err
	}
	if err := b.start(c, auth, listener); err != nil {
		return nil, errors.Join(err, closeListener(listener))
	}
	return b, nil
}

// start starts NATS on a listener, which is NATS's from then on.
func (b *Broker) start(c Config, auth *authenticator, listener net.Listener) error {
	// NATS would tell its log alone.
	if err := os.MkdirAll(c.StoreDir, 0o700); err != nil {
		return fmt.Errorf("making the directory of the bus: %w: move what is there away; the server builds its content again", err)
	}
	var err error
	if b.server, err = server.NewServer(options(c, listener.Addr(), auth)); err != nil {
		return fmt.Errorf("configuring NATS: %w", err)
	}
	b.refused = newRefused(b.misused, b.guard, c.Logger)
	b.places = connlimit.New(listener, c.Places, b.refused.count, c.Logger)
	if err := acceptFrom(b.server, b.places); err != nil {
		return err
	}
	auth.admission.Crowded = b.refused.counter.WithLabelValues("sessions").Inc
	b.server.SetLoggerV2(newNATSLog(c.Logger, b.refused), true, false, false)
	if auth.accounts, err = lookUpAccounts(b.server); err != nil {
		return err
	}
	// Before the start, where every account without JetStream is given all of its
	// API, to be told that it has none.
	if err := share(auth.accounts[bus.AccountCore], auth.accounts[accountReaders]); err != nil {
		return err
	}
	b.server.Start()
	if err := b.connect(auth); err != nil {
		b.Shutdown()
		return err
	}
	return nil
}

// Addr is the address that the broker listens on for devices.
func (b *Broker) Addr() net.Addr { return b.server.Addr() }

// Drop implements bus.Connections. It may be called within the authentication of
// another connection, which must not wait for it.
func (b *Broker) Drop(connections []uint64) {
	go b.guard.Do(func() {
		for _, id := range connections {
			b.disconnect(id)
		}
	})
}

func (b *Broker) disconnect(id uint64) { _ = b.server.DisconnectClientByID(id) } // gone already: fine

// DropUnread implements bus.Connections.
func (b *Broker) DropUnread(connections []uint64) {
	for _, id := range connections {
		state, err := b.server.Connz(&server.ConnzOptions{CID: id})
		if err != nil || len(state.Conns) == 0 || state.Conns[0].Pending <= bus.MaxUnread {
			continue // gone already, or it reads
		}
		b.refused.counter.WithLabelValues("slowConsumer").Inc()
		b.disconnect(id)
	}
}

// misused takes a connection that keeps breaking the rules of the bus.
func (b *Broker) misused(id uint64) {
	if !b.gate.Misused(id) {
		b.disconnect(id)
	}
}

// Collectors are the metrics of what NATS refuses.
func (b *Broker) Collectors() []prometheus.Collector {
	return []prometheus.Collector{b.refused.counter}
}

// Shutdown stops the server and waits for it.
func (b *Broker) Shutdown() {
	for _, c := range []*nats.Conn{b.Devices, b.Core, b.readers, b.system} {
		if c != nil {
			c.Close()
		}
	}
	b.server.Shutdown()
	b.server.WaitForShutdown()
}

func options(c Config, addr net.Addr, auth *authenticator) *server.Options {
	at := addr.(*net.TCPAddr)
	store := c.MaxFileStore
	if store == 0 {
		store = DefaultMaxFileStore
	}
	return &server.Options{
		ServerName:                 "fleet",
		Host:                       at.IP.String(),
		Port:                       at.Port,
		NoSigs:                     true,
		Accounts:                   []*server.Account{server.NewAccount(bus.AccountDevices), server.NewAccount(bus.AccountCore), server.NewAccount(accountReaders), server.NewAccount(bus.AccountSystem)},
		SystemAccount:              bus.AccountSystem,
		CustomClientAuthentication: auth,
		TLS:                        true,
		TLSVerify:                  true,
		TLSHandshakeFirst:          true,
		TLSTimeout:                 bus.AuthTimeout.Seconds(),
		AuthTimeout:                bus.AuthTimeout.Seconds(),
		TLSConfig:                  tlsConfig(c),
		PingInterval:               bus.PingInterval,
		MaxConn:                    c.Places.All() + ownConnections,
		MaxPayload:                 bus.MaxPayload,
		MaxSubs:                    bus.MaxSubscriptions,
		MaxControlLine:             bus.MaxControlLine,
		MaxPending:                 bus.MaxPending,
		MaxClosedClients:           maxClosed,
		JetStream:                  true,
		JetStreamMaxMemory:         bus.MaxMemoryStore,
		JetStreamMaxStore:          store,
		StoreDir:                   c.StoreDir,
	}
}

// tlsConfig is a configuration whose certificate and authorities are those of
// the moment of each handshake.
func tlsConfig(c Config) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: c.Certificate, Time: c.Now,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(),
	}
	present := &presentConfig{base: base}
	return c.Handshakes.Config(base, func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return present.of(slices.Concat(c.DeviceCAs.Certificates(), c.OperatorCAs.Certificates())), nil
	})
}

// presentConfig makes the configuration for some authorities. Each connection keeps
// its own for as long as it lasts, so that all share one until the authorities change.
type presentConfig struct {
	base *tls.Config

	mu          sync.Mutex // guards what follows
	authorities []*x509.Certificate
	config      *tls.Config
}

func (p *presentConfig) of(authorities []*x509.Certificate) *tls.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config == nil || !slices.Equal(p.authorities, authorities) {
		p.authorities, p.config = authorities, p.base.Clone()
		p.config.ClientCAs = x509.NewCertPool()
		for _, ca := range authorities {
			p.config.ClientCAs.AddCert(ca)
		}
	}
	return p.config
}

func lookUpAccounts(s *server.Server) (map[string]*server.Account, error) {
	accounts := map[string]*server.Account{}
	for _, name := range []string{bus.AccountDevices, bus.AccountCore, accountReaders, bus.AccountSystem} {
		a, err := s.LookupAccount(name)
		if err != nil {
			return nil, fmt.Errorf("configuring NATS account %s: %w", name, err)
		}
		accounts[name] = a
	}
	return accounts, nil
}

func (b *Broker) connect(auth *authenticator) error {
	if !b.server.ReadyForConnections(readyTimeout) {
		return errors.New("starting NATS: it is not ready; is the port free and the data directory writable?")
	}
	if err := auth.accounts[bus.AccountCore].EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("enabling JetStream: %w", err)
	}
	// At once: with TLS first, NATS lets each wait 50 ms for a handshake.
	var connecting errgroup.Group
	for name, conn := range map[string]**nats.Conn{
		bus.AccountDevices: &b.Devices, bus.AccountCore: &b.Core, accountReaders: &b.readers, bus.AccountSystem: &b.system,
	} {
		connecting.Go(func() (err error) {
			*conn, err = nats.Connect("", nats.InProcessServer(b.server), nats.UserInfo(name, auth.secret), nats.Name("fleet-server"),
				nats.CustomInboxPrefix(bus.ServerInbox), nats.ErrorHandler(b.refused.clientError), nats.MaxReconnects(-1),
				nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(0, 0), nats.DisconnectErrHandler(b.refused.clientEnded))
			if err != nil {
				return fmt.Errorf("connecting to NATS account %s: %w", name, err)
			}
			return nil
		})
	}
	if err := connecting.Wait(); err != nil {
		return err
	}
	if err := (&readers{core: b.Core, guard: b.guard}).serve(b.readers); err != nil {
		return err
	}
	return b.watchConnections()
}

// watchConnections learns of ended connections from NATS's system events, and asks
// for them after it could not hear any.
func (b *Broker) watchConnections() error {
	b.system.SetReconnectHandler(func(*nats.Conn) {
		b.guard.Do(func() {
			for _, id := range b.gate.Connections() {
				if b.server.GetClient(id) == nil {
					b.gate.Disconnected(id)
				}
			}
		})
	})
	_, err := b.system.Subscribe("$SYS.ACCOUNT."+bus.AccountDevices+".DISCONNECT", func(m *nats.Msg) {
		var event server.DisconnectEventMsg
		if json.Unmarshal(m.Data, &event) == nil {
			b.guard.Do(func() { b.gate.Disconnected(event.Client.ID) }, "connection", event.Client.ID)
		}
	})
	if err != nil {
		return fmt.Errorf("watching connections: %w", err)
	}
	return b.system.Flush()
}
