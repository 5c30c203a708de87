package enroll_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// devicesAPI has Devices, by their names, and nothing else.
type devicesAPI struct {
	mu      sync.Mutex // guards devices
	devices map[string]*v1alpha1.Device
}

// RoundTrip implements http.RoundTripper.
func (a *devicesAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	dir, name := path.Split(r.URL.Path)
	device := a.devices[name]
	if !strings.HasSuffix(dir, "/devices/") || device == nil {
		return nil, errNoAPI
	}
	if r.Method == http.MethodPut {
		changed := &v1alpha1.Device{}
		if err := json.NewDecoder(r.Body).Decode(changed); err != nil {
			return nil, err
		}
		device = changed
		device.Generation++
		a.devices[name] = device
	}
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(device); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// add lets a device in that has a certificate.
func (a *devicesAPI) add(h *enroll.Handler, name string, chain []*x509.Certificate) {
	device := &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Generation: 1}, Spec: v1alpha1.DeviceSpec{
		Enrollment: &v1alpha1.DeviceEnrollment{KeyFingerprint: pki.Fingerprint(chain[0].RawSubjectPublicKeyInfo)},
	}}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.devices[name] = device
	h.Service.Roster.Bind(name, client.KeysOf(device))
}

// ask sends a request and returns the status, and the reply if it is one.
func ask(h http.Handler, method, target, body string, chain []*x509.Certificate) (status int, reply wire.EnrollReply) {
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, target, strings.NewReader(body))
	r.TLS = &tls.ConnectionState{PeerCertificates: chain}
	h.ServeHTTP(w, r)
	_ = json.Unmarshal(w.Body.Bytes(), &reply) // the root is none
	return w.Code, reply
}

// renewal is the body of a request for a new key.
func renewal(t testing.TB) string {
	t.Helper()
	data, err := json.Marshal(wire.RenewRequest{CSR: pkitest.CSR(t)})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// question is one of a flood, and how it is answered once there is too much of
// it.
type question struct {
	method, target, body string
	chain                []*x509.Certificate
	status               int
}

// flood returns a question of every kind, by whoever has a token and by whoever
// has none.
func flood(t *testing.T, h *enroll.Handler, authorities *pki.PKI) map[string]question {
	t.Helper()
	token := wire.NewToken(authorities.RootHash())
	addToken(t, h, token)
	h.LeaveOneRequest(token.ID)
	wrong, unknown, foreign := token, wire.NewToken(authorities.RootHash()), wire.NewToken(wire.Digest{1})
	wrong.Secret[0]++
	with := func(token string, status int) question {
		body, err := json.Marshal(wire.EnrollRequest{Token: token, Device: "stranger", CSR: pkitest.CSR(t)})
		if err != nil {
			t.Fatal(err)
		}
		return question{http.MethodPost, wire.PathEnroll, string(body), nil, status}
	}
	return map[string]question{
		"a good token":            with(token.Encode(), http.StatusTooManyRequests),
		"a wrong secret":          with(wrong.Encode(), http.StatusForbidden),
		"an unknown token":        with(unknown.Encode(), http.StatusForbidden),
		"a token of elsewhere":    with(foreign.Encode(), http.StatusForbidden),
		"no token":                with("", http.StatusBadRequest),
		"garbage":                 {http.MethodPost, wire.PathEnroll, "\x00", nil, http.StatusBadRequest},
		"the root":                {http.MethodGet, wire.PathCA, "", nil, http.StatusTooManyRequests},
		"the time":                {http.MethodGet, wire.PathTime + "?nonce=" + strings.Repeat("07", 32), "", nil, http.StatusTooManyRequests},
		"a renewal by nobody":     {http.MethodPost, wire.PathRenew, renewal(t), nil, http.StatusBadRequest},
		"a certificate that was":  {http.MethodPost, wire.PathRenew, renewal(t), chainOf(t, authorities, "edge-0"), http.StatusTooManyRequests},
		"a certificate of nobody": {http.MethodPost, wire.PathRenew, renewal(t), chainOf(t, authorities, "nobody"), http.StatusTooManyRequests},
	}
}

// Whatever others ask for and have used up, with a token or without, a device
// renews its certificate.
func TestRenewalsGoOnDuringFloods(t *testing.T) {
	t.Parallel()
	api := &devicesAPI{devices: map[string]*v1alpha1.Device{}}
	h, authorities := newHandlerWith(t, api)
	const devices = 20
	chains := map[string][]*x509.Certificate{}
	for i := range devices {
		name := fmt.Sprintf("edge-%d", i)
		chains[name] = chainOf(t, authorities, name)
		api.add(h, name, chains[name])
	}
	h.SpendAllButRenewals()

	over := make(chan struct{})
	var flooding sync.WaitGroup
	defer flooding.Wait()
	defer close(over)
	for name, q := range flood(t, h, authorities) {
		asked := make(chan struct{})
		flooding.Go(func() {
			for first := true; ; first = false {
				if status, reply := ask(h, q.method, q.target, q.body, q.chain); status != q.status || reply.Certificate != "" {
					t.Errorf("%s is answered %d %+v, want %d", name, status, reply, q.status)
				}
				if first {
					close(asked)
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
		<-asked
	}
	for name, chain := range chains {
		_, reply := ask(h, http.MethodPost, wire.PathRenew, renewal(t), chain)
		if reply.Error != nil || reply.Certificate == "" {
			t.Errorf("the renewal of %s is answered %+v", name, reply)
		}
	}
	// The control: without that budget there is no renewal.
	h.SpendRenewals()
	if _, reply := ask(h, http.MethodPost, wire.PathRenew, renewal(t), chains["edge-1"]); reply.Error == nil || reply.Error.Code != wire.RefusedRateLimited {
		t.Errorf("with nothing left, the renewal is answered %+v", reply)
	}
}

// stuckAPI answers nothing until it is released.
type stuckAPI chan struct{}

// RoundTrip implements http.RoundTripper.
func (a stuckAPI) RoundTrip(*http.Request) (*http.Response, error) {
	<-a
	return nil, errNoAPI
}

// A site whose devices all enroll at once is told to come back before the devices
// give up: what is decided for a device that has gone is in vain.
func TestACrowdIsToldToComeBack(t *testing.T) {
	t.Parallel()
	const more, deviceGivesUp = 5, 20 * time.Second
	api := make(stuckAPI)
	h, authorities := newHandlerWith(t, api)
	token := wire.NewToken(authorities.RootHash())
	addToken(t, h, token)
	var crowd sync.WaitGroup
	defer crowd.Wait()
	defer close(api)
	answers := make(chan int, enroll.MaxDeciding+more)
	for n := range enroll.MaxDeciding + more {
		body, err := json.Marshal(wire.EnrollRequest{Token: token.Encode(), Device: fmt.Sprintf("edge-%d", n), CSR: pkitest.CSR(t)})
		if err != nil {
			t.Fatal(err)
		}
		crowd.Go(func() {
			status, _ := ask(h, http.MethodPost, wire.PathEnroll, string(body), nil)
			answers <- status
		})
	}
	over := time.After(deviceGivesUp)
	for range more {
		select {
		case status := <-answers:
			if status != http.StatusTooManyRequests {
				t.Errorf("an answer is %d", status)
			}
		case <-over:
			t.Fatal("devices wait until they give up")
		}
	}
}

// One host uses up its share of what anybody may ask for, and each refusal costs it a
// connection.
func TestFloodOfOneHostLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	h, _ := newHandler(t)
	get := func(address string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, wire.PathCA, nil)
		r.RemoteAddr = address
		h.ServeHTTP(w, r)
		return w
	}
	w := get("192.0.2.1:1")
	for n := 0; w.Code != http.StatusTooManyRequests; n++ {
		if n > enroll.HostBurst*100 { // a slow machine gives the host more time for each
			t.Fatal("the flood is not refused")
		}
		w = get("192.0.2.1:1")
	}
	if w.Header().Get("Connection") != "close" {
		t.Error("whoever is turned away keeps the connection")
	}
	if w := get("192.0.2.2:1"); w.Code != http.StatusOK {
		t.Errorf("another host is answered %d", w.Code)
	}
}
