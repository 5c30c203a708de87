package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/plane"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

var errCut = errors.New("the power is cut")

// cutter is a server's way to its API until the power is cut: before its n-th
// write, or, if late is set, after it, when nobody hears the answer.
type cutter struct {
	next   http.RoundTripper
	n      int
	late   bool
	writes int
	dead   bool
	// before is called before each write; it may be nil.
	before func(*http.Request)
}

func (c *cutter) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.dead {
		return nil, errCut
	}
	if r.Method == http.MethodGet {
		return c.next.RoundTrip(r)
	}
	if c.before != nil {
		c.before(r)
	}
	c.writes++
	if c.writes < c.n {
		return c.next.RoundTrip(r)
	}
	c.dead = true
	if c.late {
		res, err := c.next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		_ = res.Body.Close()
	}
	return nil, errCut
}

// sane is a clock that is right.
type sane struct{}

func (sane) Now() time.Time { return time.Now() }
func (sane) Sane() error    { return nil }

// listener is an enrollment listener in this process that lives until a cut.
func (s *server) listener(c *cutter) http.Handler {
	s.t.Helper()
	authorities, err := pki.Load(filepath.Join(s.config.DataDir, "pki"), time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	tombstones, err := tombstone.Open(filepath.Join(s.t.TempDir(), "revoked-keys.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = tombstones.Close() })
	config := s.rest()
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		c.next = next
		return c
	})
	api, err := client.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return enroll.NewHandler(enroll.HandlerConfig{
		Service: &enrollment.Service{
			Fleet: "fleet", Client: api, Tokens: cache.NewStore(cache.MetaNamespaceKeyFunc), PKI: authorities,
			Devices: cache.NewIndexer(cache.MetaNamespaceKeyFunc, enrollment.Indexers()), Requests: cache.NewIndexer(cache.MetaNamespaceKeyFunc, enrollment.Indexers()),
			Roster: plane.NewGate("fleet", tombstones).Roster, Tombstones: tombstones, ForgetReports: func(string) {},
			Logger: slog.New(slog.DiscardHandler), Clock: sane{},
		},
		Servers: func(host string) []string { return []string{"tls://" + net.JoinHostPort(host, "4222")} }, Hosts: func() []string { return []string{"localhost"} },
	})
}

func post(t *testing.T, h http.Handler, r wire.EnrollRequest) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, wire.PathEnroll, strings.NewReader(string(data))))
}

// The server loses power at each write of an enrollment, before or after it.
// The device asks again with the same key and token, and is let in; the token
// is used once.
func TestEnrollmentSurvivesAPowerCutAtEachStep(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, approval := range []bool{false, true} {
		for _, late := range []bool{false, true} {
			for n, done := 1, false; !done; n++ {
				name := fmt.Sprintf("edge-%d-%v-%v", n, late, approval)
				token := s.token(map[string]string{"group": "a"})
				id := strings.Split(token, ".")[2]
				s.editToken(id, func(o *v1alpha1.EnrollmentToken) { o.Spec.MaxUses, o.Spec.PreApproved = 1, !approval })
				r := wire.EnrollRequest{Token: token, Device: name, CSR: pkitest.CSROf(t, newKey(t))}
				cut := &cutter{n: n, late: late}
				post(t, s.listener(cut), r) // whatever it says, nobody may have heard it
				if done = !cut.dead; done && n == 1 {
					t.Fatal("an enrollment writes nothing: these cuts prove nothing")
				}
				s.finishes(name, r, approval)
			}
		}
	}
}

// finishes lets the device ask until it has a certificate.
func (s *server) finishes(name string, r wire.EnrollRequest, approval bool) {
	s.t.Helper()
	h := s.holder(name)
	approved := false
	eventually(s.t, name+" to be let in", func() error {
		reply := h.post(wire.PathEnroll, r)
		switch {
		case reply.Error != nil:
			return reply.Error
		case reply.Certificate != "":
			return nil
		case approval && !approved:
			s.approve(name)
			approved = true
		}
		return errors.New("pending")
	})
	if uses := s.uses(r.Token); uses != 1 {
		s.t.Errorf("%s: the token was used %d times", name, uses)
	}
	d, err := s.client().Devices().Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil || d.Labels["group"] != "a" || d.Spec.Enrollment == nil {
		s.t.Errorf("%s: %+v, %v", name, d, err)
	}
	if _, err := s.client().EnrollmentRequests().Get(s.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		s.t.Errorf("%s: its request is still there: %v", name, err)
	}
}
