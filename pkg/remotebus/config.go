package remotebus

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/natskeys"
)

// Config is what a Bus needs.
type Config struct {
	// Servers are URLs of NATS; the client learns of the others of a cluster.
	Servers []string
	// Options are those of each connection: TLS, for example.
	Options []nats.Option
	// Keys are those whose public keys the configuration has: Devices, Core and System log in to
	// the account of that name, Issuer signs the answers to callouts, and XKey decrypts these.
	Keys natskeys.Pairs
	// DeviceCAs are the authorities whose certificates may be devices.
	DeviceCAs Authority
	// Gate decides which devices may connect.
	Gate bus.Gate
	// Owns reports whether a device is this process's: others answer for the others. Nil is
	// for all.
	Owns func(device string) bool
	// Replicas is how many servers hold each bucket; 1 when zero.
	Replicas int
	// Now is the clock that certificates are verified by; time.Now when nil.
	Now func() time.Time
	// Panics counts mistakes of the program; nil for nobody.
	Panics *guard.Panics
	Logger *slog.Logger
}

// Authority is what issues the certificates of devices.
type Authority interface {
	// Certificates are those that are trusted at present.
	Certificates() []*x509.Certificate
}

// Mistakes in the configuration of NATS, each with what to do about it.
var (
	ErrNoJetStream = errors.New("account " + bus.AccountCore + " has no JetStream: enable JetStream in NATS, and jetstream in that account")
	ErrNoCallout   = errors.New("NATS makes no auth callout to account " + bus.AccountSystem + ": its authorization needs auth_callout with that account, see fleet-server nats-accounts")
	ErrIssuer      = errors.New("NATS does not accept answers to its auth callout: the issuer in its configuration is another than that of the key file, see fleet-server nats-accounts")
	ErrXKey        = errors.New("the auth callout cannot be decrypted: the xkey in NATS' configuration is another than that of the key file, see fleet-server nats-accounts")
	ErrNoSystem    = errors.New("NATS does not answer requests of the system account: system_account has to be " + bus.AccountSystem + ", see fleet-server nats-accounts")
)

// loginOf is the login of the user that has a key.
func loginOf(user nkeys.KeyPair) (nats.Option, error) {
	public, err := user.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	return nats.Nkey(public, user.Sign), nil
}

// connect logs in to an account.
func (c *Config) connect(account string, login nats.Option, more ...nats.Option) (*nats.Conn, error) {
	opts := append([]nats.Option{
		nats.Name("fleet-server"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(false), nats.CustomInboxPrefix(bus.ServerInbox),
	}, c.Options...)
	conn, err := nats.Connect(strings.Join(c.Servers, ","), append(append(opts, login), more...)...)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS account %s at %s: %w", account, strings.Join(c.Servers, ","), err)
	}
	return conn, nil
}
