package enroll_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/proxy/proxytest"
)

const gateway = "gateway.test:8443"

// TestThroughAProxy: only the proxy knows where the gateway is, for enrollment, the
// time and renewal.
func TestThroughAProxy(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	p := proxytest.Start(t)
	p.Hosts = map[string]string{gateway: strings.TrimPrefix(s.url, "https://")}
	way := must(proxy.New(proxy.Settings{URL: p.URL()}))(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	behind := clock.New(clock.Config{System: func() time.Time { return time.Now().AddDate(-1, 0, 0) }})
	req := enroll.Request{Server: "https://" + gateway, Token: s.token.Encode(), Device: "pi-1", Key: key, Clock: behind}
	if result, err := enroll.Enroll(t.Context(), req); err == nil {
		t.Errorf("the control: enrolled without the proxy: %v", result)
	}
	req.Proxy = way
	result := must(enroll.Enroll(t.Context(), req))(t)
	block, _ := pem.Decode([]byte(result.Certificate))
	next := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	renewal := enroll.Renewal{
		Server: req.Server, Device: "pi-1", Present: &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}, Next: next, Root: result.Root, Clock: behind, Proxy: way,
	}
	must(enroll.Renew(t.Context(), renewal))(t)
	if diff := cmp.Diff([]string{gateway}, p.Asked()); diff != "" {
		t.Error(diff)
	}

	p.Hosts = nil
	_, err := enroll.Enroll(t.Context(), req)
	if problem, ok := errors.AsType[*proxy.Error](err); !ok || strings.Contains(err.Error(), "is it the enrollment port") || !strings.Contains(problem.Problem, "cannot reach "+gateway) {
		t.Errorf("got %v", err)
	}
}
