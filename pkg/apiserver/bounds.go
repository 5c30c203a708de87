package apiserver

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"path"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

const (
	// listFactor is how much memory a list takes by comparison with what is stored:
	// measured with 4,000 Devices, with what the garbage collector leaves.
	listFactor = 12
	// smallList is a list that waits for no large ones.
	smallList = 4 << 20
	// writeFactor is how much memory a write takes by comparison with its body, and
	// writeBase what the smallest takes: the object may be larger than its change.
	writeFactor, writeBase = 24, 256 << 10
	// maxWatches is how many watches there may be.
	maxWatches = 1000
	// listing is how long a watch that begins with everything there is takes for
	// that, about.
	listing = 5 * time.Second

	// boundPatience is how long a request waits for its turn, maxWaiting how many
	// wait. They take turns in the order in which they came, whereas one that is
	// told to come back begins anew: some clients would get nothing for a minute
	// while a dozen ask for all Devices on a small gateway.
	boundPatience = 10 * time.Second
	maxWaiting    = 64
	retryAfter    = 2 // seconds
)

// bounds keeps the requests that are worked on at one time from taking more
// memory than they should. Nothing of it holds for the server's own clients.
type bounds struct {
	sizes    func(ctx context.Context, prefix string) (datastore.Size, error)
	info     *request.RequestInfoFactory
	bodies   *bodies
	refusals *prometheus.CounterVec
	// memory is for large lists, and as much for small ones and for writes. A large
	// list takes a part of it at least, as many as are worked on at once: each also
	// keeps a processor busy.
	memory, part         int64
	large, small, writes *semaphore.Weighted
	// lists are the places of lists that are sent in pages: one is read for each that
	// its client takes in.
	lists            *semaphore.Weighted
	waiting, watches atomic.Int64
	// stall is how long a client may take for one piece of an answer.
	stall time.Duration
}

func newBounds(sizes func(context.Context, string) (datastore.Size, error), memory int64, largeLists int, bodies *bodies, refusals *prometheus.CounterVec) *bounds {
	return &bounds{
		sizes: sizes, memory: memory, part: memory / int64(largeLists), bodies: bodies, refusals: refusals, stall: stallTime,
		info:  &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
		large: semaphore.NewWeighted(memory), small: semaphore.NewWeighted(memory), writes: semaphore.NewWeighted(memory),
		lists: semaphore.NewWeighted(2 * int64(largeLists)),
	}
}

// handler lets requests through to the API as memory permits.
func (b *bounds) handler(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, err := b.info.NewRequestInfo(r)
		if err != nil || !info.IsResourceRequest {
			api.ServeHTTP(w, r)
			return
		}
		w = steady(w, b.stall)
		switch info.Verb {
		case "list", "deletecollection":
			b.list(w, r, info, api)
		case "watch":
			b.watch(w, r, info, api)
		case "create", "update", "patch":
			b.within(w, r, b.writes, writeCost(r), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if b.bodies.check(w, r, info) {
					api.ServeHTTP(w, r)
				}
			}))
		default:
			api.ServeHTTP(w, r)
		}
	})
}

func (b *bounds) list(w http.ResponseWriter, r *http.Request, info *request.RequestInfo, api http.Handler) {
	if size, err := b.sizes(r.Context(), prefixOf(info)); err == nil {
		if p, ok := b.pages(r, info, size, api); ok {
			p.serve(w)
			return
		}
	}
	places, cost := b.costOfList(r, info)
	b.within(w, r, places, cost, api)
}

// watch counts as a list while it begins, if it begins with all objects.
func (b *bounds) watch(w http.ResponseWriter, r *http.Request, info *request.RequestInfo, api http.Handler) {
	if b.watches.Add(1) > maxWatches {
		b.watches.Add(-1)
		b.refuse(w, r)
		return
	}
	defer b.watches.Add(-1)
	q := r.URL.Query()
	if rv := q.Get("resourceVersion"); rv != "" && rv != "0" && q.Get("sendInitialEvents") != "true" {
		api.ServeHTTP(w, r)
		return
	}
	places, cost := b.costOfList(r, info)
	release, ok := b.acquire(r.Context(), places, cost)
	if !ok {
		b.refuse(w, r)
		return
	}
	timer := time.AfterFunc(listing, release)
	defer func() {
		if timer.Stop() {
			release()
		}
	}()
	api.ServeHTTP(w, r)
}

// within serves a request once there is memory for it.
func (b *bounds) within(w http.ResponseWriter, r *http.Request, places *semaphore.Weighted, cost int64, api http.Handler) {
	release, ok := b.acquire(r.Context(), places, cost)
	if !ok {
		b.refuse(w, r)
		return
	}
	defer release()
	api.ServeHTTP(w, r)
}

// acquire waits for memory. What takes more than there is has all of it.
func (b *bounds) acquire(ctx context.Context, places *semaphore.Weighted, cost int64) (release func(), ok bool) {
	cost = min(cost, b.memory)
	release = func() { places.Release(cost) }
	if places.TryAcquire(cost) {
		return release, true
	}
	if b.waiting.Add(1) > maxWaiting {
		b.waiting.Add(-1)
		return nil, false
	}
	defer b.waiting.Add(-1)
	return b.wait(ctx, places, cost, boundPatience)
}

// costOfList estimates the memory that a list takes: at most as much as all
// objects do, or as many of the largest as it asks for.
func (b *bounds) costOfList(r *http.Request, info *request.RequestInfo) (places *semaphore.Weighted, cost int64) {
	if info.Name != "" { // of one object
		return b.small, smallList / 4
	}
	size, err := b.sizes(r.Context(), prefixOf(info))
	if err != nil {
		return b.large, b.memory // it will fail as well
	}
	bytes := size.Bytes
	if limit, err := strconv.ParseInt(r.URL.Query().Get("limit"), 10, 64); err == nil && limit > 0 && limit < size.Objects {
		bytes = min(bytes, limit*size.Largest)
	}
	cost = max(bytes*listFactor, writeBase)
	if cost <= smallList {
		return b.small, cost
	}
	return b.large, max(cost, b.part)
}

// prefixOf is where the objects that a request is about are stored.
func prefixOf(info *request.RequestInfo) string {
	return path.Join(StoragePrefix, info.APIGroup, info.Resource, info.Namespace) + "/"
}

// writeCost estimates the memory that a write takes.
func writeCost(r *http.Request) int64 {
	body := r.ContentLength
	if body < 0 {
		body = maxBody
	}
	return min(body, maxBody)*writeFactor + writeBase
}

func (b *bounds) refuse(w http.ResponseWriter, r *http.Request) {
	if r.Context().Err() != nil {
		return // the client is gone
	}
	b.refusals.WithLabelValues("rateLimited").Inc()
	tooMany(w, "the server works on as much as its memory permits: try again, and ask for lists in pages (limit)")
}

// tooMany answers as Kubernetes does, so that clients try again by themselves.
func tooMany(w http.ResponseWriter, message string) {
	w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	writeStatus(w, &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests, Message: message,
		Details: &metav1.StatusDetails{RetryAfterSeconds: retryAfter},
	})
}

func writeStatus(w http.ResponseWriter, s *metav1.Status) {
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(cmp.Or(s.Code, http.StatusInternalServerError)))
	_ = json.NewEncoder(w).Encode(s) // the client is gone: nothing to do
}
