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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// siteAPI has one token, and the Devices that were made.
type siteAPI struct {
	// full is what the API says of each new Device when its store has no room.
	full    string
	mu      sync.Mutex // guards what follows
	token   *v1alpha1.EnrollmentToken
	devices map[string]*v1alpha1.Device
}

// RoundTrip implements http.RoundTripper.
func (a *siteAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var answer any
	code := http.StatusOK
	dir, name := path.Split(r.URL.Path)
	switch {
	case strings.HasSuffix(dir, "/enrollmenttokens/"):
		answer = a.token
	case r.Method == http.MethodPost && a.full != "":
		code = http.StatusInsufficientStorage
		answer = metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage,
			Reason: "InsufficientStorage", Message: a.full,
		}
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
		code, answer = http.StatusNotFound, metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
		}
	}
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// newSite returns an API with a token that lets so many devices in.
func newSite(t *testing.T, uses int) (*siteAPI, *enroll.Handler, wire.Token) {
	t.Helper()
	api := &siteAPI{devices: map[string]*v1alpha1.Device{}}
	h, authorities := newHandlerWith(t, api)
	token := wire.NewToken(authorities.RootHash())
	addToken(t, h, token)
	cached, _, err := h.Service.Tokens.GetByKey(token.ID)
	if err != nil {
		t.Fatal(err)
	}
	api.token = cached.(*v1alpha1.EnrollmentToken).DeepCopy()
	api.token.Spec.MaxUses, api.token.Spec.PreApproved = uses, true
	return api, h, token
}

// The uses that a good token has are its bound: a site enrolls as fast as the server can,
// whatever the budget for requests that use it for nothing new.
func TestNewUsesOfATokenAreNotBudgeted(t *testing.T) {
	t.Parallel()
	const devices = 20
	_, h, token := newSite(t, devices)
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

// What other tokens were used up for, by crowds that wait for approval for example, keeps
// the devices of another one from nothing. It does keep out whose own budget is used up.
func TestATokenIsIndependentOfOthers(t *testing.T) {
	t.Parallel()
	_, h, token := newSite(t, 3)
	h.SpendAllButRenewals()
	ask := func(device string) int {
		body, err := json.Marshal(wire.EnrollRequest{Token: token.Encode(), Device: device, CSR: pkitest.CSR(t)})
		if err != nil {
			t.Fatal(err)
		}
		status, _ := post(t, h, string(body))
		return status
	}
	for _, device := range []string{"edge-1", "edge-2"} {
		if status := ask(device); status != http.StatusOK {
			t.Errorf("%s is answered %d", device, status)
		}
	}
	h.LeaveOneRequest(token.ID)
	if status := ask("edge-3"); status != http.StatusTooManyRequests {
		t.Errorf("a token that was asked for in vain all the time is answered %d", status)
	}
}

// A device that enrolls while the gateway's disk is full is told so, with the numbers that
// the API gives, and when to come back. It has used nothing of its token.
func TestAFullDiskIsToldToDevices(t *testing.T) {
	t.Parallel()
	api, h, token := newSite(t, 1)
	api.full = "the disk is full: 0.3 of 64.0 MiB are free"
	body, err := json.Marshal(wire.EnrollRequest{Token: token.Encode(), Device: "edge-1", CSR: pkitest.CSR(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, full := range []bool{true, true, false} {
		if !full {
			api.full = ""
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathEnroll, strings.NewReader(string(body))))
		var reply wire.EnrollReply
		if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil {
			t.Fatal(err)
		}
		switch {
		case !full && (w.Code != http.StatusOK || reply.Certificate == ""):
			t.Errorf("with room, it is answered %d %+v", w.Code, reply.Error)
		case full && (w.Code != http.StatusInsufficientStorage || w.Header().Get("Retry-After") == ""):
			t.Errorf("the answer is %d, %v", w.Code, w.Header())
		case full && (reply.Error == nil || reply.Error.Code != wire.RefusedUnavailable || !strings.Contains(reply.Error.Message, api.full)):
			t.Errorf("the device is told %+v", reply.Error)
		}
	}
}
