package embedserver

import (
	"bytes"
	"net"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/rights"
)

// KubeconfigName is the administrator's kubeconfig in the data directory.
const KubeconfigName = "admin.kubeconfig"

// maxKubeconfig bounds it in bytes.
const maxKubeconfig = 1 << 20

const (
	adminUser     = "admin"
	adminGroup    = "system:masters"
	adminValidity = 365 * 24 * time.Hour
	// adminRenewal is how long before its end the certificate is replaced at a start.
	adminRenewal = 120 * 24 * time.Hour
)

// writeKubeconfig writes the administrator's kubeconfig, mode 0600, unless the
// one that is there still serves.
func (s *server) writeKubeconfig(now time.Time) error {
	path := s.path(KubeconfigName)
	url := "https://" + localAddress(s.apiListener.Addr())
	if s.kubeconfigIsCurrent(path, url, now) {
		return nil
	}
	cert, key, err := s.pki.IssueOperator(adminUser, []string{adminGroup}, now, adminValidity)
	if err != nil {
		return err
	}
	data, err := client.WriteKubeconfig(url, s.pki.RootsPEM(), adminUser, cert, key)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}

func (s *server) kubeconfigIsCurrent(path, url string, now time.Time) bool {
	data, err := rights.ReadFile(path, maxKubeconfig)
	if err != nil {
		return false
	}
	config, err := client.ParseKubeconfig(data)
	if err != nil {
		return false // root would refuse it, too
	}
	for _, c := range config.Clusters {
		if c.Server != url || !bytes.Equal(c.CertificateAuthorityData, s.pki.RootsPEM()) {
			return false
		}
	}
	user := config.AuthInfos[adminUser]
	if user == nil {
		return false
	}
	cert, err := pki.DecodeCert(user.ClientCertificateData)
	return err == nil && cert.NotAfter.Sub(now) > adminRenewal && cert.CheckSignatureFrom(s.pki.Operator.Cert()) == nil
}

// localAddress is how clients on this machine reach a listener.
func localAddress(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
