package enrollment

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// Indices of Service.Devices and Service.Requests: by the fingerprints of keys, and by
// the token.
const keyIndex, tokenIndex = "key", "token"

// Indexers index Devices and EnrollmentRequests for a Service.
func Indexers() cache.Indexers {
	return cache.Indexers{tokenIndex: byToken, keyIndex: func(o any) ([]string, error) {
		switch o := o.(type) {
		case *v1alpha1.EnrollmentRequest:
			return []string{o.Spec.KeyFingerprint}, nil
		case *v1alpha1.Device:
			if e := o.Spec.Enrollment; e != nil && e.NextKeyFingerprint != "" {
				return []string{e.KeyFingerprint, e.NextKeyFingerprint}, nil
			} else if e != nil {
				return []string{e.KeyFingerprint}, nil
			}
		}
		return nil, nil
	}}
}

func byToken(o any) ([]string, error) {
	switch o := o.(type) {
	case *v1alpha1.EnrollmentRequest:
		return []string{o.Spec.Token}, nil
	case *v1alpha1.Device:
		if o.Spec.Enrollment != nil {
			return []string{o.Spec.Enrollment.Token}, nil
		}
	}
	return nil, nil
}

const (
	// stripes is how many keys may ask at a time.
	stripes = 64
	// maxRecent is how many keys are remembered at least that asked last: more
	// than can ask before the caches know of them.
	maxRecent = 5000
)

// claims see to it that a key has one name. It asks for one name at a time, and
// what was last asked for is remembered, since caches are behind.
type claims struct {
	// held has a lock for the keys whose fingerprints begin alike. It is taken
	// before mu.
	held [stripes]sync.Mutex

	mu sync.Mutex // guards what follows
	// byKey has the name that a key asked for, byName is the other way round.
	byKey, byName memory
}

// memory remembers the last maxRecent things at least, and twice as many at most.
type memory struct{ recent, older map[string]string }

func (m *memory) set(key, value string) {
	if m.recent == nil || len(m.recent) >= maxRecent {
		m.recent, m.older = map[string]string{}, m.recent
	}
	m.recent[key] = value
}

func (m *memory) get(key string) (values []string) {
	for _, generation := range []map[string]string{m.recent, m.older} {
		if value, ok := generation[key]; ok {
			values = append(values, value)
		}
	}
	return values
}

// hold keeps every other request with the key waiting until release is called.
func (c *claims) hold(fingerprint string) (release func()) {
	n, err := strconv.ParseUint(fingerprint[:min(4, len(fingerprint))], 16, 16)
	if err != nil {
		n = 0 // no fingerprint: they all share one lock
	}
	l := &c.held[n%stripes]
	l.Lock()
	return l.Unlock
}

// remember records that a key is about to get a name.
func (c *claims) remember(fingerprint, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byKey.set(fingerprint, name)
	c.byName.set(name, fingerprint)
}

// names are those that the key got lately.
func (c *claims) names(fingerprint string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byKey.get(fingerprint)
}

// isRecent reports whether somebody asked for a name lately.
func (c *claims) isRecent(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byName.get(name)) > 0
}

// namesOf are the names that a key may have: what the caches know, and what it got a
// moment ago.
func (s *Service) namesOf(fingerprint string) ([]string, error) {
	names := s.claims.names(fingerprint)
	for _, holders := range []cache.Indexer{s.Devices, s.Requests} {
		keys, err := holders.IndexKeys(keyIndex, fingerprint)
		if err != nil {
			return nil, fmt.Errorf("looking for who has the key %s: %w", fingerprint, err)
		}
		names = append(names, keys...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// otherHolder returns the name of another Device or EnrollmentRequest than name
// that has the key at present, or nothing. A name that a key only may have is
// looked up: the caches, too, may know what is over.
func (s *Service) otherHolder(ctx context.Context, fingerprint, name string, has ...holds) (string, error) {
	names, err := s.namesOf(fingerprint)
	if err != nil {
		return "", err
	}
	for _, other := range names {
		if other == name {
			continue
		}
		for _, has := range has {
			switch held, err := has(ctx, other, fingerprint); {
			case err != nil:
				return "", err
			case held:
				return other, nil
			}
		}
	}
	return "", nil
}

// holds reports whether an object of a name has a key.
type holds func(ctx context.Context, name, fingerprint string) (bool, error)

func (s *Service) deviceHolds(ctx context.Context, name, fingerprint string) (bool, error) {
	d, err := s.device(ctx, name)
	return d != nil && d.HasKey(fingerprint), err
}

func (s *Service) requestHolds(ctx context.Context, name, fingerprint string) (bool, error) {
	r, err := s.request(ctx, name)
	return r != nil && r.Spec.KeyFingerprint == fingerprint, err
}

// device returns the Device of a name, or nil when there is none.
func (s *Service) device(ctx context.Context, name string) (*v1alpha1.Device, error) {
	d, err := s.Client.Devices().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking up device %s: %w", name, err)
	}
	return d, nil
}

// request returns the EnrollmentRequest of a name, or nil when there is none.
func (s *Service) request(ctx context.Context, name string) (*v1alpha1.EnrollmentRequest, error) {
	r, err := s.Client.EnrollmentRequests().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking up the request of device %s: %w", name, err)
	}
	return r, nil
}

// knownDevice returns the Device of a name that somebody asks for. The API is asked
// only for a name that a cache knows, or that somebody got a moment ago. One that
// anybody else created a moment ago shows when another is to be created.
func (s *Service) knownDevice(ctx context.Context, name string) (*v1alpha1.Device, error) {
	if !s.isKnown(s.Devices, name) {
		return nil, nil
	}
	return s.device(ctx, name)
}

// knownRequest is knownDevice for an EnrollmentRequest.
func (s *Service) knownRequest(ctx context.Context, name string) (*v1alpha1.EnrollmentRequest, error) {
	if !s.isKnown(s.Requests, name) {
		return nil, nil
	}
	return s.request(ctx, name)
}

func (s *Service) isKnown(objects cache.Indexer, name string) bool {
	_, cached, _ := objects.GetByKey(name) // it never fails
	return cached || s.claims.isRecent(name)
}
