package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	"k8s.io/apiserver/pkg/endpoints/request"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

const (
	// pageBytes is how much of what is stored a page has, pageObjects of how many
	// objects at most. With very large objects it has fewPageObjects all the same:
	// each page costs a query.
	pageBytes                   = 2 << 20
	pageObjects, fewPageObjects = 500, 8
	// pagePatience is how long a list that has begun waits for its next page.
	pagePatience = time.Minute
)

// paged is a list of everything that is read in pages and sent as one: custom
// resources take ten times as much in memory as in the store.
type paged struct {
	*bounds

	api     http.Handler
	request *http.Request
	// limit is how many objects a page has, cost the memory that one takes.
	limit, cost int64
}

// pages returns how a list is read, if it is one of everything, is large, and in a
// form whose pages can be joined.
func (b *bounds) pages(r *http.Request, info *request.RequestInfo, size datastore.Size, api http.Handler) (p paged, ok bool) {
	q := r.URL.Query()
	if r.Method != http.MethodGet || info.Verb != "list" || info.Name != "" || q.Has("limit") || q.Has("continue") ||
		size.Bytes*listFactor <= smallList || !wantsJSON(r.Header.Get("Accept")) {
		return paged{}, false
	}
	limit := min(pageObjects, max(fewPageObjects, pageBytes/max(1, size.Largest)))
	bytes := min(size.Bytes, limit*size.Largest)
	cost := bytes * listFactor
	if q.Has("labelSelector") || q.Has("fieldSelector") {
		cost = min(size.Bytes*listFactor, cost+size.Bytes) // all may be read for one page
	}
	return paged{b, api, r, limit, max(cost, b.part)}, true
}

// wantsJSON reports whether a client prefers lists as JSON. A Table has rows in
// place of items.
func wantsJSON(accept string) bool {
	first, _, _ := strings.Cut(accept, ",")
	if strings.TrimSpace(first) == "" {
		return true
	}
	media, params, err := mime.ParseMediaType(first)
	return err == nil && (media == "application/json" || media == "*/*") && params["as"] != "Table"
}

// serve answers with all pages. Lists take turns with each page.
func (p paged) serve(w http.ResponseWriter) {
	release, ok := p.acquire(p.request.Context(), p.lists, 1)
	if !ok {
		p.refuse(w, p.request)
		return
	}
	defer release()
	first, ok := p.page("", boundPatience)
	if !ok {
		p.refuse(w, p.request)
		return
	}
	l, err := first.list()
	if err != nil {
		first.copyTo(w) // an error, as it is
		return
	}
	p.join(w, first, l)
}

// join sends the pages as one list. One that cannot be read ends the connection:
// the client must not take the list for complete.
func (p paged) join(w http.ResponseWriter, first *page, l list) {
	maps.Copy(w.Header(), first.header)
	w.Header().Del("Content-Length")
	out, end := compressed(w, p.request)
	w.WriteHeader(http.StatusOK)
	_, err := io.WriteString(out, l.head())
	for comma := ""; err == nil; {
		if items := l.items(); len(items) > 0 {
			_, err = fmt.Fprintf(out, "%s%s", comma, items)
			comma = ","
		}
		if err != nil || l.next() == "" {
			break
		}
		next, ok := p.page(l.next(), pagePatience)
		if !ok {
			panic(http.ErrAbortHandler)
		}
		if l, err = next.list(); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	if err == nil {
		_, err = io.WriteString(out, "]}\n")
	}
	if err != nil || end() != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}

// page reads one page, in its turn.
func (p paged) page(next string, patience time.Duration) (*page, bool) {
	release, ok := p.wait(p.request.Context(), p.large, p.cost, patience)
	if !ok {
		return nil, false
	}
	defer release()
	answer := &page{header: http.Header{}, code: http.StatusOK}
	p.api.ServeHTTP(answer, p.of(next))
	return answer, true
}

// of returns the request for a page.
func (p paged) of(next string) *http.Request {
	r := p.request.Clone(p.request.Context())
	q := r.URL.Query()
	q.Set("limit", strconv.FormatInt(p.limit, 10))
	if next != "" {
		q.Set("continue", next) // which says of which revision
		q.Del("resourceVersion")
		q.Del("resourceVersionMatch")
	}
	r.URL.RawQuery = q.Encode()
	r.RequestURI = r.URL.RequestURI()
	r.Header.Del("Accept-Encoding") // the whole is compressed
	return r
}

// page is an answer of the API, in memory.
type page struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (p *page) Header() http.Header { return p.header }

// WriteHeader implements http.ResponseWriter.
func (p *page) WriteHeader(code int) { p.code = code }

// Write implements http.ResponseWriter.
func (p *page) Write(data []byte) (int, error) { return p.body.Write(data) }

// Flush implements http.Flusher.
func (*page) Flush() {}

func (p *page) copyTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), p.header)
	w.WriteHeader(p.code)
	_, _ = w.Write(p.body.Bytes()) // the client is gone: nothing to do
}

// list is what a page says.
type list struct {
	Kind       string                     `json:"kind"`
	APIVersion string                     `json:"apiVersion"`
	Metadata   map[string]json.RawMessage `json:"metadata"`
	Items      json.RawMessage            `json:"items"`
}

func (p *page) list() (l list, err error) {
	if p.code != http.StatusOK {
		return list{}, fmt.Errorf("reading a page: status %d", p.code)
	}
	if err := json.Unmarshal(p.body.Bytes(), &l); err != nil {
		return list{}, fmt.Errorf("reading a page: %w", err)
	}
	if len(l.Items) < len("[]") || l.Items[0] != '[' {
		return list{}, fmt.Errorf("reading a page: a %s has no items", l.Kind)
	}
	return l, nil
}

// head is the beginning of the whole list.
func (l list) head() string {
	metadata := maps.Clone(l.Metadata)
	delete(metadata, "remainingItemCount")
	delete(metadata, "continue")
	about, err := json.Marshal(struct {
		Kind       string                     `json:"kind"`
		APIVersion string                     `json:"apiVersion"`
		Metadata   map[string]json.RawMessage `json:"metadata"`
	}{l.Kind, l.APIVersion, metadata})
	if err != nil {
		return "" // not of what was read from JSON
	}
	return strings.TrimSuffix(string(about), "}") + `,"items":[`
}

// items are those of a page, without the brackets.
func (l list) items() []byte { return bytes.TrimSpace(l.Items[1 : len(l.Items)-1]) }

// next is the token of the next page, empty at the end.
func (l list) next() (token string) {
	_ = json.Unmarshal(l.Metadata["continue"], &token) // none: no next page
	return token
}

// compressed compresses an answer as the API does: quickly, for clients that ask
// for it.
func compressed(w http.ResponseWriter, r *http.Request) (out io.Writer, end func() error) {
	if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		return w, func() error { return nil }
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Add("Vary", "Accept-Encoding")
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return w, func() error { return err } // there is this level
	}
	return z, z.Close
}

// wait waits for memory, for so long. What takes more than there is has all of it.
func (b *bounds) wait(ctx context.Context, places *semaphore.Weighted, cost int64, patience time.Duration) (release func(), ok bool) {
	cost = min(cost, b.memory)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if places.Acquire(ctx, cost) != nil {
		return nil, false
	}
	return func() { places.Release(cost) }, true
}
