package attack_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// startTimeout is generous: it bounds a hang, it measures nothing.
	startTimeout = time.Minute
	tokenUses    = 100_000
)

// site is a whole fleet-server in this process, on ports of its own.
type site struct {
	t       testing.TB
	dir     string
	ready   embedserver.Ready
	rest    *rest.Config
	client  *client.Client
	roots   *x509.CertPool
	rootKey wire.Digest
	log     *lineCount
	// handshakeFirst: devices begin with TLS, not with the server's greeting.
	handshakeFirst bool

	attackers atomic.Int64
}

// lineCount counts the lines of the server's log.
type lineCount struct{ lines, bytes atomic.Int64 }

// Write implements io.Writer.
func (l *lineCount) Write(p []byte) (int, error) {
	l.lines.Add(1)
	l.bytes.Add(int64(len(p)))
	return len(p), nil
}

// newSite starts a server in a directory of the test and stops it at the end.
func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), log: &lineCount{}, roots: x509.NewCertPool()}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan embedserver.Ready, 1), make(chan error, 1)
	go func() {
		done <- embedserver.Run(ctx, embedserver.Config{
			DataDir: s.dir, APIListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", EnrollListen: "127.0.0.1:0",
			Logger: slog.New(slog.NewTextHandler(s.log, nil)),
		}, func(r embedserver.Ready) { ready <- r })
	}()
	select {
	case s.ready = <-ready:
	case err := <-done:
		t.Fatalf("the server ended: %v", err)
	case <-time.After(startTimeout):
		t.Fatal("the server is not ready")
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping the server: %v", err)
		}
	})
	s.connectAPI()
	s.handshakeFirst = !greets(t, s.ready.NATS.String())
	return s
}

func (s *site) connectAPI() {
	s.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.ready.Kubeconfig)
	must(s.t, err)
	config.QPS, config.Burst = -1, -1
	s.rest = config
	s.client, err = client.New(config)
	must(s.t, err)
	rootPEM, err := os.ReadFile(filepath.Join(s.dir, "pki", "root.crt"))
	must(s.t, err)
	root, err := pki.DecodeCert(rootPEM)
	must(s.t, err)
	s.roots.AddCert(root)
	s.rootKey = wire.Sum(root.RawSubjectPublicKeyInfo)
}

// greets reports whether a listener speaks before TLS.
func greets(t testing.TB, addr string) bool {
	t.Helper()
	const patience = 500 * time.Millisecond
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer func() { _ = conn.Close() }()
	must(t, conn.SetReadDeadline(time.Now().Add(patience)))
	n, _ := conn.Read(make([]byte, 1))
	return n > 0
}

// token creates an enrollment token that lets any number of devices in.
func (s *site) token(labels map[string]string) string {
	s.t.Helper()
	return s.tokenWith(func(spec *v1alpha1.EnrollmentTokenSpec) { spec.Labels = labels })
}

func (s *site) tokenWith(change func(*v1alpha1.EnrollmentTokenSpec)) string {
	s.t.Helper()
	token := wire.Token{CAHash: s.rootKey, ID: "t" + randomHex(5)}
	_, _ = rand.Read(token.Secret[:]) // never fails, see crypto/rand
	spec := v1alpha1.EnrollmentTokenSpec{
		SecretHash: token.SecretHash(), ExpiresAt: new(metav1.NewTime(time.Now().Add(time.Hour))), MaxUses: tokenUses, PreApproved: true,
	}
	change(&spec)
	_, err := s.client.EnrollmentTokens().Create(s.t.Context(), &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Name: token.ID}, Spec: spec}, metav1.CreateOptions{})
	must(s.t, err)
	return token.Encode()
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

// deploy creates a Deployment for the devices with the label group=<group>.
func (s *site) deploy(namespace, name, group string, args ...string) wire.DeploymentRef {
	s.t.Helper()
	data, err := json.Marshal(map[string]any{"services": []any{map[string]any{"name": "web", "image": "localhost/hello:1", "args": args}}})
	must(s.t, err)
	_, err = s.client.Deployments(namespace).Create(s.t.Context(), &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": group}},
			Score:          v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: data}},
		},
	}, metav1.CreateOptions{})
	must(s.t, err)
	return wire.DeploymentRef{Namespace: namespace, Name: name}
}

func (s *site) enrollURL(path string) string {
	_, port, _ := net.SplitHostPort(s.ready.Enroll.String())
	return "https://" + net.JoinHostPort("localhost", port) + path
}

// post sends an enrollment request.
func (s *site) post(ctx context.Context, c *http.Client, body []byte) (status int, reply wire.EnrollReply, err error) {
	return s.postTo(ctx, c, wire.PathEnroll, body)
}

// postTo sends a request for a certificate.
func (s *site) postTo(ctx context.Context, c *http.Client, path string, body []byte) (status int, reply wire.EnrollReply, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.enrollURL(path), bytes.NewReader(body))
	if err != nil {
		return 0, reply, err
	}
	res, err := c.Do(req)
	if err != nil {
		return 0, reply, err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return res.StatusCode, reply, err
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return res.StatusCode, reply, fmt.Errorf("reply %.100q: %w", data, err)
	}
	return res.StatusCode, reply, nil
}

// web is a client of the enrollment listener.
func (s *site) web() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots}, MaxIdleConnsPerHost: 100,
	}, Timeout: waitTimeout}
}

// scrape returns the server's metrics by their text form.
func (s *site) scrape(t testing.TB) map[string]float64 {
	t.Helper()
	c, err := rest.HTTPClientFor(s.rest)
	must(t, err)
	res, err := c.Get(s.rest.Host + "/metrics")
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	must(t, err)
	out := map[string]float64{}
	for line := range strings.Lines(string(data)) {
		name, value, ok := cutLast(strings.TrimSpace(line), " ")
		var f float64
		if _, err := fmt.Sscan(value, &f); ok && err == nil && !strings.HasPrefix(line, "#") {
			out[name] = f
		}
	}
	return out
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// decodeChain turns a chain in PEM and its key into the form that TLS wants.
func decodeChain(chain string, key any) (tls.Certificate, error) {
	c := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	if len(c.Certificate) == 0 {
		return c, errors.New("there is no certificate")
	}
	return c, nil
}

// background runs f until the returned function is called, which waits for it.
func background(f func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	return func() { cancel(); wg.Wait() }
}
