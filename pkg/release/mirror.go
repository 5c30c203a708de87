package release

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	connectTimeout = 30 * time.Second
	// idleTimeout is how long a download may stand still.
	idleTimeout = time.Minute
)

// Mirror is a release on a web server.
type Mirror struct {
	// URL is that of the directory of the release.
	URL *url.URL
	// CAFile are the authorities (PEM) that its certificate, or a proxy's, may be
	// of, instead of the system's. Empty for those.
	CAFile string
	// Progress gets a line for each file.
	Progress io.Writer
}

// OpenMirror prepares a download. Proxies are those that the environment names.
func OpenMirror(m Mirror) (*Source, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: connectTimeout,
		DisableCompression: true, // lengths are those of the files
	}
	if m.CAFile != "" {
		pem, err := os.ReadFile(m.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the authorities of the mirror: %w", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading the authorities of the mirror: %s has no certificate in PEM", m.CAFile)
		}
	}
	return &Source{mirror: &mirror{Mirror: m, client: &http.Client{Transport: transport}}}, nil
}

type mirror struct {
	Mirror

	client *http.Client
	// sums and signature are the list of checksums, once it is read.
	sums, signature []byte
}

// readList fetches the list of checksums. A mirror whose list is not signed is
// not trusted, so that nothing else is fetched from it.
func (m *mirror) readList(ctx context.Context, key *ecdsa.PublicKey) error {
	if key == nil {
		return ErrNoKey
	}
	var err error
	if m.sums, err = m.fetchSmall(ctx, checksumsName); err != nil {
		return err
	}
	if m.signature, err = m.fetchSmall(ctx, signatureName); err != nil {
		return err
	}
	return verifySignature(m.sums, m.signature, key)
}

// fetchSmall returns a file, of which what is too long for one of its kind is cut.
func (m *mirror) fetchSmall(ctx context.Context, name string) (content []byte, err error) {
	err = m.fetch(ctx, name, func(_ int64, r io.Reader) (err error) {
		content, err = io.ReadAll(io.LimitReader(r, maxChecksums+1))
		return err
	})
	return content, err
}

// download fetches what devices need of what the list names.
func (m *mirror) download(ctx context.Context, u *unpacker) error {
	for name, content := range map[string][]byte{checksumsName: m.sums, signatureName: m.signature} {
		if err := u.add(name, int64(len(content)), bytes.NewReader(content)); err != nil {
			return err
		}
	}
	want, err := parseSums(m.sums)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if optional(name) {
			continue
		}
		if err := m.fetch(ctx, name, func(size int64, r io.Reader) error {
			fmt.Fprintf(m.Progress, "download %s, %.1f MiB\n", name, float64(size)/(1<<20))
			return u.add(name, size, r)
		}); err != nil {
			return err
		}
	}
	return nil
}

// fetch downloads a file. The size is what the mirror says.
func (m *mirror) fetch(ctx context.Context, name string, use func(size int64, r io.Reader) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	address := m.URL.JoinPath(strings.Split(name, "/")...)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return fmt.Errorf("downloading %s: %w", name, err)
	}
	answer, err := m.client.Do(r)
	if err != nil {
		return fmt.Errorf("downloading the release: %w: check address, proxy, CA and clock", err)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("downloading %s: the mirror says %s: is it the address of a release?", address.Redacted(), answer.Status)
	case answer.ContentLength < 0:
		return fmt.Errorf("downloading %s: the mirror does not say how long it is", address.Redacted())
	}
	body := &impatient{Reader: answer.Body, timer: time.AfterFunc(idleTimeout, func() {
		cancel(fmt.Errorf("nothing came for %s", idleTimeout))
	})}
	defer body.timer.Stop()
	if err := use(answer.ContentLength, body); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("downloading %s: %w", address.Redacted(), err)
	}
	return nil
}

// impatient puts a timer back with each read.
type impatient struct {
	io.Reader

	timer *time.Timer
}

func (r *impatient) Read(p []byte) (int, error) {
	r.timer.Reset(idleTimeout)
	return r.Reader.Read(p)
}
