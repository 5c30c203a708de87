package enroll_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errNoAPI = errors.New("there is no API")

// noAPI fails every request: what is refused here must not reach the API.
type noAPI struct{}

// RoundTrip implements http.RoundTripper.
func (noAPI) RoundTrip(*http.Request) (*http.Response, error) { return nil, errNoAPI }

// sane is a clock that is right.
type sane struct{}

func (sane) Now() time.Time { return time.Now() }
func (sane) Sane() error    { return nil }

var hosts = []string{"gateway.example", "192.0.2.1", "::1"}

func newHandler(t testing.TB) (*enroll.Handler, *pki.PKI) {
	t.Helper()
	return newHandlerWith(t, noAPI{})
}

func newHandlerWith(t testing.TB, api http.RoundTripper) (*enroll.Handler, *pki.PKI) {
	t.Helper()
	dir := t.TempDir()
	authorities, err := pki.Load(filepath.Join(dir, "pki"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tombstones, err := tombstone.Open(filepath.Join(dir, "revoked-keys.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tombstones.Close() })
	c, err := client.New(&rest.Config{Host: "http://api", Transport: api, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return enroll.NewHandler(enroll.HandlerConfig{
		Service: &enrollment.Service{
			Fleet: "fleet", Client: c, Tokens: cache.NewStore(cache.MetaNamespaceKeyFunc),
			Devices: cache.NewIndexer(cache.MetaNamespaceKeyFunc, enrollment.Indexers()), Requests: cache.NewIndexer(cache.MetaNamespaceKeyFunc, enrollment.Indexers()), PKI: authorities,
			Roster: roster.New(roster.Config{Fleet: "fleet", Revoked: tombstones}), Tombstones: tombstones,
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: sane{},
		},
		Servers: func(host string) []string { return []string{"tls://" + net.JoinHostPort(host, "4222")} }, Hosts: func() []string { return hosts }, Signer: func() (crypto.Signer, error) { return key, nil },
	}), authorities
}

// post sends an enrollment request and returns the answer.
func post(t testing.TB, h http.Handler, body string) (int, wire.EnrollReply) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathEnroll, strings.NewReader(body)))
	var reply wire.EnrollReply
	if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("answer %d %q is no reply: %v", w.Code, w.Body, err)
	}
	return w.Code, reply
}

func TestRootIsGivenToAnybody(t *testing.T) {
	t.Parallel()
	h, authorities := newHandler(t)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, wire.PathCA, nil))
	if w.Code != http.StatusOK || w.Body.String() != string(authorities.RootsPEM()) {
		t.Errorf("answer is %d %q", w.Code, w.Body)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	for request, want := range map[string]int{
		"POST " + wire.PathCA: http.StatusMethodNotAllowed, "GET " + wire.PathEnroll: http.StatusMethodNotAllowed,
		"DELETE " + wire.PathEnroll: http.StatusMethodNotAllowed, "GET /": http.StatusNotFound, "POST /v1/enroll/x": http.StatusNotFound, "GET /v1/ca/../pki": http.StatusMovedPermanently,
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if got := w.Code; got != want && !(want == http.StatusMovedPermanently && got/100 == 3) {
			t.Errorf("%s: %d, want %d", request, got, want)
		}
	}
}

func TestGarbageIsRefused(t *testing.T) {
	t.Parallel()
	h, authorities := newHandler(t)
	known := wire.NewToken(authorities.RootHash())
	addToken(t, h, known)
	token := known.Encode()
	foreign := wire.NewToken(wire.Digest{1}).Encode()
	guessed := wire.NewToken(authorities.RootHash())
	guessed.ID = known.ID
	request := func(change func(*wire.EnrollRequest)) string {
		r := wire.EnrollRequest{Token: token, Device: "edge-1", CSR: pkitest.CSR(t)}
		change(&r)
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	certificate := func(s string) string { return strings.ReplaceAll(s, "CERTIFICATE REQUEST", "CERTIFICATE") }
	for name, tc := range map[string]struct {
		body string
		code wire.RefusalCode
		says string
	}{
		"empty":           {"", wire.RefusedBadRequest, ""},
		"no document":     {"\x00\xff", wire.RefusedBadRequest, ""},
		"a list":          {"[]", wire.RefusedBadRequest, ""},
		"too long":        {`{"token":"` + strings.Repeat("x", wire.MaxEnrollRequest) + `"}`, wire.RefusedBadRequest, "at most"},
		"nothing":         {"{}", wire.RefusedBadRequest, "token"},
		"half a token":    {request(func(r *wire.EnrollRequest) { r.Token = r.Token[:70] }), wire.RefusedBadRequest, "token"},
		"no name":         {request(func(r *wire.EnrollRequest) { r.Device = "" }), wire.RefusedBadRequest, "--name"},
		"a bad name":      {request(func(r *wire.EnrollRequest) { r.Device = "Edge.*" }), wire.RefusedBadRequest, "--name"},
		"no request":      {request(func(r *wire.EnrollRequest) { r.CSR = "" }), wire.RefusedBadRequest, "PEM"},
		"a certificate":   {request(func(r *wire.EnrollRequest) { r.CSR = certificate(r.CSR) }), wire.RefusedBadRequest, "PEM"},
		"a damaged one":   {request(func(r *wire.EnrollRequest) { r.CSR = pkitest.Damage(r.CSR) }), wire.RefusedBadRequest, "damaged"},
		"a foreign token": {request(func(r *wire.EnrollRequest) { r.Token = foreign }), wire.RefusedToken, "token create"},
		// A stranger's request is not worth looking at a signature.
		"a guessed one": {request(func(r *wire.EnrollRequest) { r.Token, r.CSR = guessed.Encode(), pkitest.Damage(r.CSR) }), wire.RefusedToken, "token create"},
		// The control, which gets as far as the API. What is wrong there is hidden.
		"all is well": {request(func(*wire.EnrollRequest) {}), wire.RefusedUnavailable, "try again later"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, reply := post(t, h, tc.body)
			if reply.Error == nil || reply.Error.Code != tc.code || !strings.Contains(reply.Error.Message, tc.says) || status < 400 {
				t.Errorf("answer is %d %+v, want %s that says %q", status, reply.Error, tc.code, tc.says)
			}
			if reply.Certificate != "" || reply.Error != nil && strings.Contains(reply.Error.Message, token) {
				t.Errorf("answer gives something away: %+v", reply)
			}
		})
	}
}

// tokenAPI answers every request with a token, or with that there is none.
type tokenAPI struct{ token *v1alpha1.EnrollmentToken }

// RoundTrip implements http.RoundTripper.
func (a tokenAPI) RoundTrip(*http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	if a.token == nil {
		w.WriteHeader(http.StatusNotFound)
		a.token = &v1alpha1.EnrollmentToken{}
	}
	if err := json.NewEncoder(w).Encode(a.token); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// What a token was a moment ago, as the cache has it, lets nobody in.
func TestChangedTokenCountsAtOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentToken
		says   string
	}{
		"removed": {func(*v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentToken { return nil }, "unknown or was removed"},
		"another secret": {func(o *v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentToken {
			o.Spec.SecretHash = strings.Repeat("0", len(o.Spec.SecretHash))
			return o
		}, "unknown or was removed"},
		"expired": {func(o *v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentToken {
			o.Spec.ExpiresAt = new(metav1.NewTime(time.Now().Add(-time.Second)))
			return o
		}, "expired"},
		"being removed": {func(o *v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentToken {
			o.DeletionTimestamp = new(metav1.Now())
			return o
		}, "was revoked"},
		"for another machine": {func(o *v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentToken {
			o.Spec.HardwareIDs = []string{strings.Repeat("0", 64)}
			return o
		}, "not for this machine"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var api tokenAPI
			h, authorities := newHandlerWith(t, &api)
			known := wire.NewToken(authorities.RootHash())
			addToken(t, h, known)
			cached, _, err := h.Service.Tokens.GetByKey(known.ID)
			if err != nil {
				t.Fatal(err)
			}
			api.token = tc.change(cached.(*v1alpha1.EnrollmentToken).DeepCopy())
			body, err := json.Marshal(wire.EnrollRequest{Token: known.Encode(), Device: "edge-1", CSR: pkitest.CSR(t)})
			if err != nil {
				t.Fatal(err)
			}
			_, reply := post(t, h, string(body))
			if reply.Error == nil || reply.Error.Code != wire.RefusedToken || !strings.Contains(reply.Error.Message, tc.says) {
				t.Errorf("the answer is %+v, want a refusal that says %q", reply.Error, tc.says)
			}
		})
	}
}

// What anybody may ask for is bounded, and that bound does not touch a device
// that shows its certificate.
func TestFloodOfPublicRequestsIsRefused(t *testing.T) {
	t.Parallel()
	h, authorities := newHandler(t)
	get := func(target string, chain []*x509.Certificate) int {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, target, nil)
		if chain != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: chain}
		}
		h.ServeHTTP(w, r)
		return w.Code
	}
	seen := map[int]int{}
	for range enroll.HostBurst * 2 {
		seen[get(wire.PathCA, nil)]++
	}
	if seen[http.StatusOK] < enroll.HostBurst || seen[http.StatusTooManyRequests] == 0 || len(seen) != 2 {
		t.Errorf("answers are %v", seen)
	}
	question := wire.PathTime + "?nonce=" + strings.Repeat("07", 32)
	h.SpendPublic() // it refills while the test runs
	if status := get(question, nil); status != http.StatusTooManyRequests {
		t.Errorf("strangers that ask for the time have no bound: %d", status)
	}
	foreign, err := pki.Load(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	device := chainOf(t, authorities, "edge-1")
	if status := get(question, device); status != http.StatusTooManyRequests {
		t.Errorf("certificates that are good no more have no bound: %d", status)
	}
	h.Service.Roster.Bind("edge-1", roster.Keys{Current: pki.Fingerprint(device[0].RawSubjectPublicKeyInfo)})
	if status := get(question, device); status != http.StatusOK {
		t.Errorf("a device does not get the time during the flood: %d", status)
	}
	if status := get(question, chainOf(t, foreign, "edge-1")); status != http.StatusTooManyRequests {
		t.Errorf("certificates of somebody else have no bound: %d", status)
	}
}

// How often strangers may be wrong about a token is bounded, and that bound does
// not touch whoever has a good one.
func TestFloodOfStrangersIsRefused(t *testing.T) {
	t.Parallel()
	h, authorities := newHandler(t)
	token := wire.NewToken(authorities.RootHash())
	request := func() (wire.EnrollReply, int) {
		data, err := json.Marshal(wire.EnrollRequest{Token: token.Encode(), Device: "edge-1", CSR: pkitest.CSR(t)})
		if err != nil {
			t.Fatal(err)
		}
		status, reply := post(t, h, string(data))
		return reply, status
	}
	h.SpendStrangers()
	for range 50 {
		if reply, _ := request(); reply.Error == nil || reply.Error.Code != wire.RefusedToken {
			t.Fatalf("a stranger during the flood: %+v", reply)
		}
	}
	addToken(t, h, token)
	// It gets as far as the API, which is not there.
	if reply, _ := request(); reply.Error == nil || reply.Error.Code != wire.RefusedUnavailable {
		t.Errorf("a device with a token during the flood: %+v", reply)
	}
}

// addToken makes the server know a token.
func addToken(t *testing.T, h *enroll.Handler, token wire.Token) {
	t.Helper()
	err := h.Service.Tokens.Add(&v1alpha1.EnrollmentToken{
		ObjectMeta: metav1.ObjectMeta{Name: token.ID, CreationTimestamp: metav1.Now()}, Spec: v1alpha1.EnrollmentTokenSpec{SecretHash: token.SecretHash(), MaxUses: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTimeIsSigned(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	get := func(query string) (int, wire.SignedTime) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, wire.PathTime+query, nil))
		var signed wire.SignedTime
		if err := json.Unmarshal(w.Body.Bytes(), &signed); err != nil {
			t.Fatal(err)
		}
		return w.Code, signed
	}
	nonce := bytes.Repeat([]byte{7}, 32)
	status, signed := get("?nonce=" + hex.EncodeToString(nonce))
	if status != http.StatusOK || time.Since(signed.Time).Abs() > time.Minute {
		t.Fatalf("answer is %d %v", status, signed.Time)
	}
	signer, err := h.Signer()
	if err != nil {
		t.Fatal(err)
	}
	key := signer.Public().(*ecdsa.PublicKey)
	for name, tc := range map[string]struct {
		nonce []byte
		time  time.Time
		good  bool
	}{
		"as it was": {nonce, signed.Time, true}, "another nonce": {bytes.Repeat([]byte{8}, 32), signed.Time, false}, "another time": {nonce, signed.Time.Add(time.Nanosecond), false},
	} {
		sum := sha256.Sum256(wire.SignedTimePayload(tc.nonce, tc.time))
		if good := ecdsa.VerifyASN1(key, sum[:], signed.Signature); good != tc.good {
			t.Errorf("%s: good is %v", name, good)
		}
	}
	for _, query := range []string{"", "?nonce=", "?nonce=07", "?nonce=zz", "?nonce=" + strings.Repeat("07", 65)} {
		if status, _ := get(query); status != http.StatusBadRequest {
			t.Errorf("%s: %d", query, status)
		}
	}
}

func TestRenewalNeedsACertificate(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathRenew, strings.NewReader("{}")))
	if w.Code != http.StatusBadRequest {
		t.Errorf("answer is %d %s", w.Code, w.Body)
	}
}

func TestDevicesAreSentWhereTheyCame(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	for host, want := range map[string]string{
		"192.0.2.1:8443": "192.0.2.1", "gateway.example:8443": "gateway.example", "gateway.example": "gateway.example", "[::1]:8443": "::1",
		// A name that the certificate does not have would only fail later.
		"evil.example:8443": "gateway.example", "": "gateway.example", "192.0.2.1.evil.example": "gateway.example",
	} {
		if got := h.HostFor(&http.Request{Host: host}); got != want {
			t.Errorf("a device that came to %q is sent to %q, want %q", host, got, want)
		}
	}
}
