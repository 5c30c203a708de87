package attack_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// enrollRequest is a valid request of a new device.
func (a *arena) enrollRequest(t *testing.T, token string) (wire.EnrollRequest, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := pki.NewKey()
	must(t, err)
	return wire.EnrollRequest{Token: token, Device: fmt.Sprintf("%s%d", attackerPrefix, a.attackers.Add(1)), CSR: pkitest.CSROf(t, key)}, key
}

// enrolls posts a request.
func (a *arena) enrolls(t *testing.T, req wire.EnrollRequest) (int, wire.EnrollReply) {
	t.Helper()
	status, reply, err := a.post(t.Context(), a.web(), encode(t, req))
	must(t, err)
	return status, reply
}

// turnedAway fails unless a request was refused with a code.
func turnedAway(t *testing.T, what string, reply wire.EnrollReply, codes ...wire.RefusalCode) {
	t.Helper()
	for _, code := range codes {
		if reply.Error != nil && reply.Error.Code == code && reply.Certificate == "" {
			return
		}
	}
	t.Errorf("%s: the answer is %+v, want one of %v", what, reply.Error, codes)
}

func TestEnrollmentAttacks(t *testing.T) {
	a := newArena(t)
	enrollment := func(reasons ...string) outcome {
		var names []string
		for _, reason := range reasons {
			names = append(names, refusal("enrollment", reason))
		}
		return counts(names...)
	}
	a.run(t, []attack{
		{"machine in the middle with another authority", a.machineInTheMiddle, enrollment("tls")},
		{"a token with another key", a.replayedToken, enrollment("nameTaken")},
		{"a token that is used up", a.usedUpToken, enrollment("forbidden")},
		{"one key under many names", a.manyNames, enrollment("nameTaken")},
		{"a token that expired", a.expiredToken, enrollment("forbidden")},
		{"a token that is wrong", a.wrongToken, enrollment("badRequest", "forbidden")},
		{"a request for another's name", a.anothersName, enrollment("nameTaken")},
		{"a request that is not signed by its key", a.unsignedRequest, enrollment("badRequest")},
		{"a request with more than a key", a.greedyRequest, enrollment("badRequest")},
		{"requests that are too large or none", a.oddRequests, enrollment("badRequest")},
	})
	a.beside = a.comingIn
	a.run(t, []attack{{"flood of enrollments", a.floodEnrollment, enrollment("forbidden", "badRequest")}})
}

// machineInTheMiddle answers with an authority of its own; the device must not
// show it the token.
func (a *arena) machineInTheMiddle(t *testing.T, _ *device) {
	foreign, err := pki.Load(t.TempDir(), time.Now())
	must(t, err)
	serving, err := foreign.Serving("gateway", func() []string { return []string{"localhost", "127.0.0.1"} }, time.Now)
	must(t, err)
	for name, root := range map[string][]byte{"its own root": foreign.RootsPEM(), "the real root": a.rootPEM(t)} {
		var mu sync.Mutex // guards heard
		var heard []string
		web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			heard = append(heard, string(body))
			mu.Unlock()
			_, _ = w.Write(root)
		}))
		web.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*serving.Certificate()}}
		web.Config.ErrorLog = log.New(io.Discard, "", 0)
		web.StartTLS()
		key, err := pki.NewKey()
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), settling)
		_, err = enroll.Enroll(ctx, enroll.Request{Server: strings.Replace(web.URL, "127.0.0.1", "localhost", 1), Token: a.token, Device: attackerPrefix + "mitm", Key: key})
		cancel()
		web.Close()
		if err == nil {
			t.Errorf("%s: the device enrolled", name)
		}
		secret := a.token[strings.LastIndex(a.token, ".")+1:]
		for _, body := range heard {
			if strings.Contains(body, secret) {
				t.Errorf("%s: the device showed its token", name)
			}
		}
	}
	// The other way round: a client that does not know the root.
	_, err = (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: foreign.Root.Pool()}}}).Get(a.enrollURL(wire.PathCA))
	if err == nil {
		t.Error("the server has a certificate of another authority")
	}
}

func (a *arena) rootPEM(t *testing.T) []byte {
	t.Helper()
	res, err := a.web().Get(a.enrollURL(wire.PathCA))
	must(t, err)
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	must(t, err)
	return data
}

// replayedToken is seen by somebody who has no key of the device. The same key
// may ask again.
func (a *arena) replayedToken(t *testing.T, _ *device) {
	req, _ := a.enrollRequest(t, a.token)
	for range 2 {
		if status, reply := a.enrolls(t, req); reply.Certificate == "" {
			t.Errorf("the device's own request: %d %+v", status, reply.Error)
		}
	}
	other, _ := a.enrollRequest(t, a.token)
	other.Device = req.Device
	_, reply := a.enrolls(t, other)
	turnedAway(t, "another key", reply, wire.RefusedNameTaken)
}

func (a *arena) usedUpToken(t *testing.T, _ *device) {
	token := a.tokenWith(func(s *v1alpha1.EnrollmentTokenSpec) { s.MaxUses = 1 })
	var wg sync.WaitGroup
	const racing = 8
	certificates := make(chan string, racing)
	for range racing {
		req, _ := a.enrollRequest(t, token)
		wg.Go(func() {
			if _, reply, err := a.post(context.Background(), a.web(), mustEncode(req)); err == nil && reply.Certificate != "" {
				certificates <- req.Device
			}
		})
	}
	wg.Wait()
	if n := len(certificates); n != 1 {
		t.Errorf("%d devices came in with a token for one", n)
	}
	req, _ := a.enrollRequest(t, token)
	_, reply := a.enrolls(t, req)
	turnedAway(t, "a used-up token", reply, wire.RefusedToken)
}

// manyNames asks for names with one key: at once, and with a token for one as
// with one for many.
func (a *arena) manyNames(t *testing.T, _ *device) {
	next := a.pace(100)
	for what, uses := range map[string]int{"a token for one": 1, "a token for many": 100} {
		token := a.tokenWith(func(s *v1alpha1.EnrollmentTokenSpec) { s.MaxUses = uses })
		req, _ := a.enrollRequest(t, token)
		const racing = 20
		certificates := make(chan string, racing)
		var wg sync.WaitGroup
		for i := range racing {
			named := req
			named.Device = fmt.Sprintf("%s-%d", req.Device, i)
			next()
			wg.Go(func() {
				if _, reply, err := a.post(context.Background(), a.web(), mustEncode(named)); err == nil && reply.Certificate != "" {
					certificates <- named.Device
				}
			})
		}
		wg.Wait()
		if n := len(certificates); n != 1 {
			t.Errorf("%s: one key has %d names", what, n)
		}
	}
}

func mustEncode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of strings always encode
	}
	return data
}

func (a *arena) expiredToken(t *testing.T, _ *device) {
	token := a.tokenWith(func(s *v1alpha1.EnrollmentTokenSpec) { s.ExpiresAt = new(metav1.NewTime(time.Now().Add(-time.Second))) })
	req, _ := a.enrollRequest(t, token)
	_, reply := a.enrolls(t, req)
	turnedAway(t, "an expired token", reply, wire.RefusedToken)
}

func (a *arena) wrongToken(t *testing.T, _ *device) {
	good, err := wire.ParseToken(a.token)
	must(t, err)
	wrong, unknown, foreign := good, good, good
	wrong.Secret[0]++
	unknown.ID = "nosuch"
	foreign.CAHash[0]++
	for name, token := range map[string]string{"wrong secret": wrong.Encode(), "unknown": unknown.Encode(), "of another server": foreign.Encode(), "cut": a.token[:100], "empty": "", "of the past": strings.Replace(a.token, "FLT1", "FLT0", 1)} {
		req, _ := a.enrollRequest(t, token)
		_, reply := a.enrolls(t, req)
		turnedAway(t, name, reply, wire.RefusedToken, wire.RefusedBadRequest)
		if reply.Error != nil && token != "" && strings.Contains(reply.Error.Message, good.Encode()[80:]) {
			t.Errorf("%s: the answer repeats the token", name)
		}
	}
}

// anothersName asks for names that are taken, or that are no names.
func (a *arena) anothersName(t *testing.T, _ *device) {
	for _, v := range a.victims {
		req, _ := a.enrollRequest(t, a.token)
		req.Device = v.name
		_, reply := a.enrolls(t, req)
		turnedAway(t, v.name, reply, wire.RefusedNameTaken)
	}
	for _, name := range []string{"", "*", ">", "a.b", strings.ToUpper(a.victims[0].name), a.victims[0].name + "\x00", " " + a.victims[0].name, "../x", strings.Repeat("a", 64), a.victims[0].name + "/x"} {
		req, _ := a.enrollRequest(t, a.token)
		req.Device = name
		_, reply := a.enrolls(t, req)
		turnedAway(t, name, reply, wire.RefusedBadRequest)
	}
}

// unsignedRequest carries the public key of a victim: whoever signed it does not
// have the private one.
func (a *arena) unsignedRequest(t *testing.T, _ *device) {
	req, _ := a.enrollRequest(t, a.token)
	block, _ := pem.Decode([]byte(req.CSR))
	stolen := a.victims[0].key.PublicKey
	own, err := x509.ParseCertificateRequest(block.Bytes)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(&stolen)
	must(t, err)
	swapped := strings.Replace(string(block.Bytes), string(own.RawSubjectPublicKeyInfo), string(spki), 1)
	damaged := []byte(swapped)
	for name, der := range map[string][]byte{"another's key": damaged, "cut": block.Bytes[:len(block.Bytes)-10], "longer": append(block.Bytes[:len(block.Bytes):len(block.Bytes)], 0)} {
		req.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		_, reply := a.enrolls(t, req)
		turnedAway(t, name, reply, wire.RefusedBadRequest)
	}
}

// greedyRequest asks in its certificate request for more than it is given.
func (a *arena) greedyRequest(t *testing.T, _ *device) {
	req, key := a.enrollRequest(t, a.token)
	uri, err := wire.DeviceURI("fleet", a.victims[0].name)
	must(t, err)
	tmpl := &x509.CertificateRequest{DNSNames: []string{"localhost"}, URIs: []*url.URL{uri}}
	tmpl.Subject.CommonName, tmpl.Subject.Organization = "admin", []string{"system:masters"}
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	must(t, err)
	req.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	_, reply := a.enrolls(t, req)
	if reply.Certificate == "" {
		return // refused is as good
	}
	leaf, err := pki.DecodeCert([]byte(reply.Certificate))
	must(t, err)
	if len(leaf.URIs) != 1 || !strings.HasSuffix(leaf.URIs[0].String(), "/"+req.Device) || len(leaf.DNSNames) > 0 || leaf.Subject.CommonName == "admin" || len(leaf.Subject.Organization) > 0 || leaf.IsCA {
		t.Errorf("the certificate says %v, %v, %v", leaf.URIs, leaf.DNSNames, leaf.Subject)
	}
	// Keys that are too weak, or of another kind.
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	again, _ := a.enrollRequest(t, a.token)
	again.CSR = pkitest.CSROf(t, weak)
	if _, reply := a.enrolls(t, again); reply.Certificate != "" {
		t.Logf("a key on P-224 is accepted")
	}
}

func (a *arena) oddRequests(t *testing.T, _ *device) {
	c := a.web()
	for _, body := range []string{"", "{", "[]", "null", strings.Repeat("[", 10_000), `{"token":"` + strings.Repeat("x", wire.MaxEnrollRequest) + `"}`, "\xff\x00", strings.Repeat("x", 1<<20)} {
		status, reply, err := a.post(t.Context(), c, []byte(body))
		if err != nil {
			continue // the server closed the connection
		}
		if status < 400 || reply.Certificate != "" {
			t.Errorf("%.20q: %d", body, status)
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/ca/../../pki/root.key", "/metrics", "/debug/pprof/", "/api", "/healthz/../v1/enroll"} {
		res, err := c.Get(a.enrollURL(path))
		must(t, err)
		_ = res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}
