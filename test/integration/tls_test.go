package integration_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Every listener refuses what is older than TLS 1.3, and says nothing to
// whoever does not begin with a handshake.
func TestListenersSpeakTLS13Only(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	rootPEM, err := os.ReadFile(filepath.Join(s.config.DataDir, "pki", "root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(rootPEM)
	for name, addr := range map[string]net.Addr{"API": s.ready.API, "NATS": s.ready.NATS, "enrollment": s.ready.Enroll} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for version, accepted := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
				conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", addr.String(),
					&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, MaxVersion: version})
				if err == nil {
					_ = conn.Close()
				}
				if (err == nil) != accepted {
					t.Errorf("%s accepted: %v (%v), want %v", tls.VersionName(version), err == nil, err, accepted)
				}
			}
		})
	}
}
