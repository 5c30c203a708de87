package integration_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// uses is how often a token was used: what its status says in the end, which is the
// highest number that objects bear.
func (s *server) uses(token string) (uses int) {
	s.t.Helper()
	id := strings.Split(token, ".")[2]
	devices, err := s.client().Devices().List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range devices.Items {
		if e := d.Spec.Enrollment; e != nil && e.Token == id {
			uses = max(uses, e.TokenUse)
		}
	}
	requests, err := s.client().EnrollmentRequests().List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range requests.Items {
		if r.Spec.Token == id {
			uses = max(uses, r.Spec.TokenUse)
		}
	}
	eventually(s.t, "the status of the token to count its uses", func() error {
		o, err := s.client().EnrollmentTokens().Get(s.t.Context(), id, metav1.GetOptions{})
		if err == nil && o.Status.Uses < uses {
			err = fmt.Errorf("it says %d, want %d", o.Status.Uses, uses)
		}
		if err == nil {
			uses = o.Status.Uses
		}
		return err
	})
	return uses
}

// limited makes a token for so many uses. The controller is done with it.
func (s *server) limited(uses int, preApproved bool) string {
	s.t.Helper()
	token := s.token(map[string]string{"group": "a"})
	id := strings.Split(token, ".")[2]
	s.editToken(id, func(o *v1alpha1.EnrollmentToken) { o.Spec.MaxUses, o.Spec.PreApproved = uses, preApproved })
	eventually(s.t, "the status of the token", func() error {
		o, err := s.client().EnrollmentTokens().Get(s.t.Context(), id, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.TokenUsable); c == nil || c.ObservedGeneration != o.Generation {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	return token
}

// withKey is a device with a key that others may have, too.
func (s *server) withKey(name string, key *ecdsa.PrivateKey) *holder {
	return &holder{s: s, name: name, key: key}
}

// crowd lets holders ask at the same time, and counts who is let in or waits.
func crowd(holders []*holder, token func(i int) string) (in, waits int, refused []wire.RefusalCode) {
	var mu sync.Mutex // guards the results
	var asking sync.WaitGroup
	for i, h := range holders {
		asking.Go(func() {
			reply := h.ask(token(i))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case reply.Certificate != "":
				in++
			case reply.Pending:
				waits++
			default:
				refused = append(refused, reply.Error.Code)
			}
		})
	}
	asking.Wait()
	return in, waits, refused
}

// names are those of all Devices and EnrollmentRequests.
func (s *server) names() (devices, requests []string) {
	s.t.Helper()
	d, err := s.client().Devices().List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := s.client().EnrollmentRequests().List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range d.Items {
		devices = append(devices, o.Name)
	}
	for _, o := range r.Items {
		requests = append(requests, o.Name)
	}
	return devices, requests
}

// One key is one device, however many names it asks for at once, with however
// many tokens of however many uses; and a use is one device, however many keys and
// names ask for it.
func TestAKeyHasOneName(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const many = 20
	each := func(make func(i int) *holder) []*holder {
		holders := several(many, make)
		return holders
	}
	key, other := newKey(t), newKey(t)
	once, often := s.limited(1, true), s.limited(1000, true)
	for name, tc := range map[string]struct {
		holders   []*holder
		token     func(int) string
		in, waits int
	}{
		"one key, a token for one": {each(func(i int) *holder { return s.withKey(fmt.Sprintf("once-%d", i), key) }), func(int) string { return once }, 1, 0},
		"one key, a token for all": {each(func(i int) *holder { return s.withKey(fmt.Sprintf("often-%d", i), other) }), func(int) string { return often }, 1, 0},
		"keys and names, a token for one": {
			each(func(i int) *holder { return s.holder(fmt.Sprintf("crowd-%d", i/2)) }),
			func(token string) func(int) string { return func(int) string { return token } }(s.limited(1, true)), 1, 0,
		},
		"one key, approval": {
			each(func(k *ecdsa.PrivateKey) func(i int) *holder {
				return func(i int) *holder { return s.withKey(fmt.Sprintf("asks-%d", i), k) }
			}(newKey(t))),
			func(token string) func(int) string { return func(int) string { return token } }(s.limited(1000, false)), 0, 1,
		},
		"one key, a token for each name": {
			each(func(k *ecdsa.PrivateKey) func(i int) *holder {
				return func(i int) *holder { return s.withKey(fmt.Sprintf("tokens-%d", i), k) }
			}(newKey(t))),
			func(tokens []string) func(int) string { return func(i int) string { return tokens[i] } }(several(many, func(i int) string { return s.limited(1, i%2 == 0) })), -1, -1,
		},
		// The control: different keys are different devices.
		"many keys": {each(func(i int) *holder { return s.holder(fmt.Sprintf("many-%d", i)) }), func(int) string { return often }, many, 0},
	} {
		in, waits, refused := crowd(tc.holders, tc.token)
		if tc.in < 0 && in+waits != 1 || tc.in >= 0 && (in != tc.in || waits != tc.waits) {
			t.Errorf("%s: %d are in, %d wait, %v", name, in, waits, refused)
		}
	}
	if n := s.uses(once); n != 1 {
		t.Errorf("the token for one was used %d times", n)
	}
	devices, requests := s.names()
	if want := many + 5; len(devices)+len(requests) != want {
		t.Errorf("there are %d devices and %d requests, want %d together: %v, %v", len(devices), len(requests), want, devices, requests)
	}
	// After a restart nobody remembers, and the caches know.
	s.stop()
	s.start()
	wantError(t, s.withKey("again", other).ask(often), wire.RefusedNameTaken, "a key has one name")
	wantError(t, s.withKey("once-again", key).ask(often), wire.RefusedNameTaken, "a key has one name")
	if _, err := s.client().Devices().Get(t.Context(), "again", metav1.GetOptions{}); err == nil {
		t.Error("the second name is there")
	}
	// A key that asks for its own name again is let in, with the same use.
	for _, name := range devices {
		if strings.HasPrefix(name, "once-") {
			s.withKey(name, key).enroll(once)
		}
	}
}

// noticed waits until the caches of the server have the Device or the request of a
// name: the controllers wrote its status. A server that starts has them before it
// answers anybody.
func (s *server) noticed(name string) {
	s.t.Helper()
	eventually(s.t, "the server to notice "+name, func() error {
		d, err := s.client().Devices().Get(s.t.Context(), name, metav1.GetOptions{})
		if err == nil && len(d.Status.Conditions) > 0 {
			return nil
		}
		r, err := s.client().EnrollmentRequests().Get(s.t.Context(), name, metav1.GetOptions{})
		if err == nil && len(r.Status.Conditions) == 0 {
			err = errors.New("its status is empty")
		}
		return err
	})
}

// several makes n of something.
func several[T any](n int, one func(i int) T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = one(i)
	}
	return all
}

// Clients that hang up in the middle leave no second name behind, and a server that
// stops in the middle does not.
func TestAKeyHasOneNameAfterCuts(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, approval := range []bool{false, true} {
		for n := 1; n <= 2; n++ {
			for _, late := range []bool{false, true} {
				key, token := newKey(t), s.limited(1, !approval)
				names := []string{fmt.Sprintf("a-%v-%d-%v", approval, n, late), fmt.Sprintf("b-%v-%d-%v", approval, n, late)}
				request := func(name string) wire.EnrollRequest {
					return wire.EnrollRequest{Token: token, Device: name, CSR: pkitest.CSROf(t, key)}
				}
				post(t, s.listener(&cutter{n: n, late: late}), request(names[0]))
				if n == 1 && !late {
					continue // nothing was written: either name may be had
				}
				s.noticed(names[0])
				reply := s.withKey(names[1], key).ask(token)
				if reply.Certificate != "" || reply.Pending {
					t.Errorf("%v: the key has a second name: %+v", names, reply)
				}
				s.finishes(names[0], request(names[0]), approval)
			}
		}
	}
}

// A server whose caches are behind, for ever here, goes by what it did itself.
func TestAKeyHasOneNameBesideStaleCaches(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	key, one, two := newKey(t), s.limited(1, true), s.limited(1, true)
	h := s.listener(&cutter{n: 1000})
	post(t, h, wire.EnrollRequest{Token: one, Device: "edge-1", CSR: pkitest.CSROf(t, key)})
	post(t, h, wire.EnrollRequest{Token: two, Device: "edge-2", CSR: pkitest.CSROf(t, key)})
	post(t, h, wire.EnrollRequest{Token: two, Device: "edge-3", CSR: pkitest.CSROf(t, newKey(t))}) // the control
	if devices, _ := s.names(); strings.Join(devices, " ") != "edge-1 edge-3" {
		t.Errorf("devices are %v", devices)
	}
}

// Whoever hangs up while the server writes breaks nothing off: else the key could
// ask for another name while nobody knows what became of the first.
func TestHangingUpGivesNoSecondName(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	key, token := newKey(t), s.limited(1000, true)
	ctx, hangUp := context.WithCancel(t.Context())
	brokenOff := 0
	h := s.listener(&cutter{n: 1000, before: func(r *http.Request) {
		if hangUp(); r.Context().Err() != nil {
			brokenOff++
		}
	}})
	body, err := json.Marshal(wire.EnrollRequest{Token: token, Device: "edge-1", CSR: pkitest.CSROf(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, wire.PathEnroll, bytes.NewReader(body)))
	if ctx.Err() == nil || brokenOff > 0 {
		t.Errorf("%d writes were broken off by who hung up (%v)", brokenOff, ctx.Err())
	}
	s.noticed("edge-1") // by the server, which is not what wrote it
	wantError(t, s.withKey("edge-2", key).ask(token), wire.RefusedNameTaken, "a key has one name")
}

// A renewal gives no key a second name, one after the other or at once.
func TestRenewalGivesNoSecondName(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.limited(1000, true)
	one, two := s.holder("edge-1").enroll(token), s.holder("edge-2").enroll(token)
	waiting := s.withKey("edge-3", newKey(t))
	if reply := waiting.ask(s.limited(1, false)); !reply.Pending {
		t.Fatalf("answer is %+v", reply)
	}
	wantError(t, one.renew(two.key), wire.RefusedKey, "edge-2")
	wantError(t, one.renew(waiting.key), wire.RefusedKey, "edge-3")
	next := newKey(t)
	two.renew(next)
	wantError(t, one.renew(next), wire.RefusedKey, "edge-2")
	wantError(t, s.withKey("edge-4", next).ask(token), wire.RefusedNameTaken, "edge-2")
	one.take(one.renew(one.key), one.key) // the control

	const many = 10
	devices := several(many, func(i int) *holder { return s.holder(fmt.Sprintf("crowd-%d", i)).enroll(token) })
	shared := newKey(t)
	var asking sync.WaitGroup
	var granted atomic.Int32
	for i, h := range devices {
		asking.Go(func() {
			if h.renew(shared).Certificate != "" {
				granted.Add(1)
			}
		})
		if i%3 == 0 {
			asking.Go(func() {
				if s.withKey(fmt.Sprintf("new-%d", i), shared).ask(token).Certificate != "" {
					granted.Add(1)
				}
			})
		}
	}
	asking.Wait()
	if n := granted.Load(); n != 1 {
		t.Errorf("one key has %d names", n)
	}
}

// ASN.1 lets a key be written in more ways than one. All but one are refused, or
// a key could have many fingerprints.
func TestAKeyHasOneEncoding(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	h := s.holder("edge-1")
	block, _ := pem.Decode([]byte(pkitest.CSROf(t, h.key)))
	odd := oddEncoding(t, block.Bytes, h.key)
	if parsed, err := x509.ParseCertificateRequest(odd); err != nil || parsed.CheckSignature() != nil {
		t.Fatalf("the request with another encoding of the key is not good: it proves nothing (%v)", err)
	}
	reply := h.ask(s.token(nil), func(r *wire.EnrollRequest) {
		r.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: odd}))
	})
	wantError(t, reply, wire.RefusedBadRequest, "unusual")
}

// oddEncoding is a certificate request whose key has a further element, and
// which is signed by the key.
func oddEncoding(t *testing.T, der []byte, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	var request struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	var info struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes asn1.RawValue `asn1:"optional"`
	}
	unmarshal := func(der []byte, to any) {
		if _, err := asn1.Unmarshal(der, to); err != nil {
			t.Fatal(err)
		}
	}
	marshal := func(v any) []byte {
		der, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	unmarshal(der, &request)
	unmarshal(request.Info.FullBytes, &info)
	info.Key = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: append(info.Key.Bytes[:len(info.Key.Bytes):len(info.Key.Bytes)], 0x05, 0x00)}
	request.Info = asn1.RawValue{FullBytes: marshal(info)}
	sum := sha256.Sum256(request.Info.FullBytes)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	request.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return marshal(request)
}
