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
	"sync/atomic"
	"time"
)

const (
	connectTimeout = 30 * time.Second
	// idleTimeout is how long a download may take for progress bytes: a mirror
	// that sends a byte now and then would hold the import for years.
	idleTimeout = time.Minute
	progress    = 64 << 10
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 64 << 10
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
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // lengths are those of the files
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
}

// readList fetches the list of checksums. A mirror whose list is not signed is
// not trusted, so that nothing else is fetched from it.
func (m *mirror) readList(ctx context.Context, key *ecdsa.PublicKey) (*list, error) {
	if key == nil {
		return nil, ErrNoKey
	}
	sums, err := m.fetchSmall(ctx, checksumsName)
	if err != nil {
		return nil, err
	}
	signature, err := m.fetchSmall(ctx, signatureName)
	if err != nil {
		return nil, err
	}
	return newList(sums, signature, key)
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
func (m *mirror) download(ctx context.Context, u *unpacker, l *list) error {
	for name, content := range map[string][]byte{checksumsName: l.sums, signatureName: l.signature} {
		if err := u.add(name, int64(len(content)), bytes.NewReader(content)); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.want)) {
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
	body := &impatient{Reader: answer.Body}
	body.timer = time.AfterFunc(idleTimeout, func() {
		if n := body.since.Load(); n > 0 {
			cancel(fmt.Errorf("only %d bytes came in %s", n, idleTimeout))
			return
		}
		cancel(fmt.Errorf("nothing came for %s", idleTimeout))
	})
	defer body.timer.Stop()
	if err := use(answer.ContentLength, body); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("downloading %s: %w", address.Redacted(), err)
	}
	return nil
}

// impatient puts a timer back whenever there is progress.
type impatient struct {
	io.Reader

	timer *time.Timer
	since atomic.Int64 // bytes
}

func (r *impatient) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.since.Add(int64(n)) >= progress {
		r.since.Store(0)
		r.timer.Reset(idleTimeout)
	}
	return n, err
}
