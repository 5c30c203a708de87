package clock

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrTime: the answer does not prove what time it is.
var ErrTime = errors.New("the server's answer does not prove what time it is")

const (
	// maxReply bounds a wire.SignedTime in bytes.
	maxReply = 4 << 10
	// maxHeader bounds the header of the answer.
	maxHeader = 64 << 10
	// requestTimeout bounds one exchange. It is also how late a learned time may be.
	requestTimeout = 20 * time.Second
	nonceBytes     = 32
)

// Source is whom a clock learns from.
type Source struct {
	// Server is the URL of the enrollment listener.
	Server *url.URL
	// Roots are what the server's chain has to end in.
	Roots *x509.CertPool
	// Certificate is the device's own, nil before it has one. The server answers
	// whoever shows one even while strangers flood it.
	Certificate *tls.Certificate
	// Dial connects to the server; nil for the usual way.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Learn asks the server for the time and makes it the clock's. The answer counts
// only if it is fresh, is signed with the key of the server's certificate, and
// if the server's chain ends in one of the roots and is valid at the time that
// was signed: who has no such certificate cannot set the clock, and who has an
// old one cannot set it beyond that certificate's life, nor before the device's
// own certificate.
// Errors wrap ErrTime or come from the network.
func (c *Clock) Learn(ctx context.Context, from Source) error {
	before, host := c.Now(), from.Server.Host
	t, err := from.ask(ctx)
	if err != nil {
		return fmt.Errorf("asking %s for the time: %w", host, err)
	}
	if !c.set(t) {
		return fmt.Errorf("asking %s for the time: %w: %s is before the beginning of this device's certificate", host, ErrTime, t.Format(time.RFC3339))
	}
	c.cfg.Log.Warn("this device's clock was wrong for the server's certificate; its signed time is used from now on",
		"server", host, "time", t, "instead_of", before)
	return nil
}

func (s Source) ask(ctx context.Context) (time.Time, error) {
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // never fails
	chain, body, err := s.fetch(ctx, nonce)
	if err != nil {
		return time.Time{}, err
	}
	signed, err := wire.Decode[wire.SignedTime](body, maxReply)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ErrTime, err)
	}
	if err := s.check(signed, nonce, chain); err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ErrTime, err)
	}
	return signed.Time, nil
}

// fetch gets the answer and the chain of whoever gave it. Whether the chain is
// valid now is not verified yet: what time that is, is in the answer.
func (s Source) fetch(ctx context.Context, nonce []byte) (chain []*x509.Certificate, body []byte, err error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // VerifyConnection and check verify
	// Before the device shows who it is.
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		if err := s.verify(state.PeerCertificates, leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore)/2)); err != nil {
			return fmt.Errorf("%w: %w", ErrTime, err)
		}
		return nil
	}
	if s.Certificate != nil {
		config.Certificates = []tls.Certificate{*s.Certificate}
	}
	client := &http.Client{
		Timeout:       requestTimeout,
		Transport:     &http.Transport{TLSClientConfig: config, MaxResponseHeaderBytes: maxHeader, DialContext: s.Dial},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	u := s.Server.JoinPath(wire.PathTime)
	u.RawQuery = url.Values{wire.QueryNonce: {hex.EncodeToString(nonce)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%w: status %d", ErrTime, res.StatusCode)
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	return res.TLS.PeerCertificates, body, err
}

// check verifies signature and chain.
func (s Source) check(signed wire.SignedTime, nonce []byte, chain []*x509.Certificate) error {
	leaf := chain[0] // TLS shows at least one
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	digest := sha256.Sum256(wire.SignedTimePayload(nonce, signed.Time))
	if !ok || !ecdsa.VerifyASN1(key, digest[:], signed.Signature) {
		return errors.New("it is not signed by the server's key")
	}
	return s.verify(chain, signed.Time)
}

// verify verifies that a chain was the server's at a time.
func (s Source) verify(chain []*x509.Certificate, at time.Time) error {
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: s.Server.Hostname(), Roots: s.Roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}
