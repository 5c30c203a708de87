package enroll_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// siteAPI has one token, and takes every new Device.
type siteAPI struct {
	mu      sync.Mutex // guards what follows
	token   *v1alpha1.EnrollmentToken
	devices map[string]*v1alpha1.Device
}

// RoundTrip implements http.RoundTripper.
func (a *siteAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var answer any
	dir, name := path.Split(r.URL.Path)
	switch {
	case strings.HasSuffix(dir, "/enrollmenttokens/"):
		answer = a.token
	case r.Method == http.MethodPost && name == "devices":
		d := &v1alpha1.Device{}
		if err := json.NewDecoder(r.Body).Decode(d); err != nil {
			return nil, err
		}
		d.UID, d.Generation = types.UID(d.Name), 1
		a.devices[d.Name], answer = d, d
	case a.devices[name] != nil:
		answer = a.devices[name]
	default:
		return nil, errNoAPI
	}
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// The uses that a good token has are its bound: a site enrolls as fast as the server can,
// whatever the budget for requests that use it for nothing new.
func TestNewUsesOfATokenAreNotBudgeted(t *testing.T) {
	t.Parallel()
	api := &siteAPI{devices: map[string]*v1alpha1.Device{}}
	h, authorities := newHandlerWith(t, api)
	token := wire.NewToken(authorities.RootHash())
	addToken(t, h, token)
	cached, _, err := h.Service.Tokens.GetByKey(token.ID)
	if err != nil {
		t.Fatal(err)
	}
	api.token = cached.(*v1alpha1.EnrollmentToken).DeepCopy()
	const devices = 20
	api.token.Spec.MaxUses, api.token.Spec.PreApproved = devices, true
	h.LeaveOneRequest(token.ID)
	ask := func(n int, csr string) (int, *wire.Refusal) {
		body, err := json.Marshal(wire.EnrollRequest{Token: token.Encode(), Device: fmt.Sprintf("edge-%d", n), CSR: csr})
		if err != nil {
			t.Fatal(err)
		}
		status, reply := post(t, h, string(body))
		return status, reply.Error
	}
	first := pkitest.CSR(t)
	for n := range devices {
		csr := first
		if n > 0 {
			csr = pkitest.CSR(t)
		}
		if status, refusal := ask(n, csr); status != http.StatusOK {
			t.Fatalf("device %d is answered %d, %v", n, status, refusal)
		}
	}
	// The control: what is no new use takes what is left.
	for _, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
		if status, refusal := ask(0, first); status != want {
			t.Errorf("a device that asks again is answered %d, %v, want %d", status, refusal, want)
		}
	}
}
