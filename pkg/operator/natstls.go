package operator

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// NATSSecretName is the Secret with the certificate of NATS, tls.crt and tls.key, and with the
// authorities whose certificates it takes, ca.crt. Devices trust the fleet's own root alone,
// and only NATS can ask for their certificates, so both come from here.
const NATSSecretName = "fleet-nats-tls"

const (
	// ownValidity is that of the operator's certificate for a connection to NATS, which has a
	// new one at each handshake.
	ownValidity = 24 * time.Hour
	// publishInterval is how often the Secret is compared with the certificate.
	publishInterval = time.Minute
)

// natsHosts are the names and addresses of NATS.
func (l *leader) natsHosts() []string {
	var hosts []string
	for _, server := range slices.Concat(l.Servers, l.Bus.Servers) {
		if u, err := url.Parse(server); err == nil && u.Hostname() != "" {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// clientTLS is what the operator shows to NATS.
func (l *leader) clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: l.pki.Root.Pool(), Time: l.clock.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			certPEM, keyPEM, err := l.pki.IssueOperator("fleet-operator", nil, l.clock.Now(), ownValidity)
			if err != nil {
				return nil, err
			}
			c, err := tls.X509KeyPair(certPEM, keyPEM)
			return &c, err
		},
	}
}

// publish writes the Secret for NATS, if it is not as it should be.
func (l *leader) publish(ctx context.Context) error {
	cert, err := os.ReadFile(l.natsServing.CertFile())
	if err != nil {
		return fmt.Errorf("reading the certificate of NATS: %w", err)
	}
	key, err := os.ReadFile(l.natsServing.KeyFile())
	if err != nil {
		return fmt.Errorf("reading the certificate of NATS: %w", err)
	}
	return write(ctx, l.kube.CoreV1().Secrets(l.Namespace), NATSSecretName, corev1.SecretTypeTLS, map[string][]byte{
		corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key, corev1.ServiceAccountRootCAKey: slices.Concat(l.pki.Device.PEM(), l.pki.Operator.PEM()),
	})
}

// keepPublished publishes what is renewed, and keeps the files of the authorities.
func (l *leader) keepPublished(ctx context.Context) error {
	tick := time.NewTicker(publishInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, step := range []func(context.Context) error{l.authorities.keep, l.publish} {
			if err := step(ctx); err != nil && ctx.Err() == nil {
				l.Logger.Warn("keeping certificates", "error", err)
			}
		}
	}
}
