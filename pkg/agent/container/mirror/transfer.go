package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// maxManifest bounds a manifest and an index, in bytes, maxBlobs what one names.
	maxManifest, maxBlobs = 4 << 20, 2000
	// manifestTimeout bounds the wait for a manifest at one place.
	manifestTimeout = 2 * time.Minute
)

// kinds are the types of manifests and indexes that podman understands.
var kinds = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// Transfer is one pull.
type Transfer struct {
	mirror     *Mirror
	name       name
	id, secret string
	ways       []*way
	begun      time.Time
	// Room reports why there is no room for so many bytes more; nil for nobody.
	Room func(ctx context.Context, bytes int64) error

	// context ends with the transfer, which requests waits for.
	context  context.Context //nolint:containedctx // of what podman asks for meanwhile
	cancel   context.CancelFunc
	requests sync.WaitGroup

	mu sync.Mutex // guards what follows
	// sizes are those of what manifests name, brought is how much of each came, by digest.
	sizes, brought map[string]int64
	total          int64
	// good is the number of the way that had a manifest last.
	good    int
	used    bool
	problem error
}

// Login is what podman needs for the pull.
func (t *Transfer) Login() container.Login {
	return container.Login{Registry: t.mirror.Address(), User: t.id, Password: t.secret}
}

// Progress is how many bytes of the image podman got, of how many that it has; zero while
// that is not known. What podman has already it does not ask for.
func (t *Transfer) Progress() (brought, total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.brought {
		brought += n
	}
	return min(brought, t.total), t.total
}

// Used reports whether podman asked for anything.
func (t *Transfer) Used() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

// Problem is why something was not had from anywhere; nil for nothing.
func (t *Transfer) Problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.problem
}

// End ends the transfer, and what podman still asks for. What it brought is kept for the next
// one unless podman has it.
func (t *Transfer) End(done bool) {
	t.mirror.end(t)
	t.cancel()
	t.requests.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.ways {
		w.client.CloseIdleConnections()
	}
	if done {
		for digest := range t.sizes {
			t.mirror.parts.drop(digest)
		}
	}
}

func (t *Transfer) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.problem = err
}

// manifest answers with a manifest or an index.
func (t *Transfer) manifest(w http.ResponseWriter, r *http.Request, reference string) {
	t.mu.Lock()
	t.used = true
	t.mu.Unlock()
	data, kind, err := t.fetchManifest(r.Context(), reference)
	if err != nil {
		if optional := strings.HasSuffix(reference, ".sig"); !optional {
			t.note(err)
		}
		t.fail(w, err)
		return
	}
	t.learn(data)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("Docker-Content-Digest", sum(data))
	if r.Method == http.MethodGet {
		_, _ = w.Write(data) // podman notices
	}
}

// fail answers with an error.
func (*Transfer) fail(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", err.Error())
	case errors.Is(err, ErrRefused):
		refuse(w, http.StatusForbidden, "DENIED", err.Error())
	case errors.Is(err, container.ErrNoSpace):
		refuse(w, http.StatusInsufficientStorage, "UNKNOWN", err.Error())
	default:
		refuse(w, http.StatusBadGateway, "UNKNOWN", err.Error())
	}
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(digest[:])
}

// fetchManifest asks one place after the other. The error is that of the last, which is the
// registry itself, unless another has more to say than that it has none.
func (t *Transfer) fetchManifest(ctx context.Context, reference string) (data []byte, kind string, err error) {
	err = fmt.Errorf("%w: no place is known", ErrNotFound)
	for n, way := range t.ways {
		var failed error
		if data, kind, failed = t.manifestFrom(ctx, way, reference); failed == nil {
			t.prefer(n)
			return data, kind, nil
		}
		t.mirror.Log.Debug("a place does not have a manifest", "place", way.called, "reference", reference, "error", failed)
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		err = failed
	}
	return nil, "", err
}

func (t *Transfer) prefer(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.good = n
}

// way is the place to ask at an attempt: first that which had the manifest.
func (t *Transfer) way(attempt int) *way {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ways[(t.good+attempt)%len(t.ways)]
}

func (*Transfer) manifestFrom(ctx context.Context, way *way, reference string) ([]byte, string, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	response, err := way.get(ctx, "/manifests/"+reference, http.Header{"Accept": kinds})
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxManifest+1))
	switch {
	case err != nil:
		return nil, "", way.explain(err)
	case len(data) > maxManifest:
		return nil, "", fmt.Errorf("%w: the manifest that %s sends has more than %d bytes", ErrUnavailable, way.called, maxManifest)
	case digestForm.MatchString(reference) && sum(data) != reference:
		return nil, "", fmt.Errorf("%w: %s sends another manifest than %s", ErrUnavailable, way.called, reference)
	}
	return data, response.Header.Get("Content-Type"), nil
}

// learn notes what a manifest names.
func (t *Transfer) learn(data []byte) {
	type descriptor struct {
		Digest string `json:"digest"`
		Size   int64  `json:"size"`
	}
	var m struct {
		Config descriptor   `json:"config"`
		Layers []descriptor `json:"layers"`
	}
	if json.Unmarshal(data, &m) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range append(m.Layers, m.Config) {
		if _, known := t.sizes[d.Digest]; known || d.Size <= 0 || len(t.sizes) >= maxBlobs || !digestForm.MatchString(d.Digest) {
			continue
		}
		t.sizes[d.Digest] = d.Size
		t.total += d.Size
	}
}

// blob answers with a layer or a configuration, from an offset on when that is asked for.
func (t *Transfer) blob(w http.ResponseWriter, r *http.Request, digest string) {
	t.mu.Lock()
	size, known := t.sizes[digest]
	t.mu.Unlock()
	if !known {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "no manifest of this pull names it")
		return
	}
	from := int64(0)
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil || from < 0 || from >= size {
		from = 0
	}
	if r.Method == http.MethodHead {
		header(w, digest, size, 0)
		return
	}
	s := &stream{Transfer: t, digest: digest, size: size, from: from, hash: sha256.New(), w: w}
	if err := s.run(r.Context()); err != nil {
		if r.Context().Err() == nil {
			t.note(err)
		}
		if !s.begun {
			t.fail(w, err)
			return
		}
		panic(http.ErrAbortHandler) // it has begun: only an end before the end says it
	}
}

func header(w http.ResponseWriter, digest string, size, from int64) {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", digest)
	h.Set("Content-Length", strconv.FormatInt(size-from, 10))
	if from > 0 {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
		w.WriteHeader(http.StatusPartialContent)
	}
}
