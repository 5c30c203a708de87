package apiserver_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

// shelf is an API of so many devices, of which it remembers what it was asked.
type shelf struct {
	devices int
	// fails is the index of the page that cannot be read, from 1.
	fails int

	mu    sync.Mutex // guards asked
	asked []url.Values
}

// ServeHTTP implements http.Handler.
func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	s.asked = append(s.asked, q)
	n := len(s.asked)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if n == s.fails {
		w.WriteHeader(http.StatusGone)
		_, _ = io.WriteString(w, `{"kind":"Status","code":410}`)
		return
	}
	begin, _ := strconv.Atoi(q.Get("continue"))
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil {
		limit = s.devices
	}
	end := min(s.devices, begin+limit)
	var items []string
	for i := begin; i < end; i++ {
		items = append(items, fmt.Sprintf(`{"metadata":{"name":"d%d"}}`, i))
	}
	metadata := `"resourceVersion":"7"`
	if end < s.devices {
		metadata += fmt.Sprintf(`,"continue":"%d","remainingItemCount":%d`, end, s.devices-end)
	}
	_, _ = fmt.Fprintf(w, `{"kind":"DeviceList","apiVersion":"fleet.nationtech.io/v1alpha1","metadata":{%s},"items":[%s]}`, metadata, strings.Join(items, ","))
}

// listing is a server whose store has so many devices of 8 KiB.
func (s *shelf) listing(t *testing.T) *httptest.Server {
	t.Helper()
	size := datastore.Size{Objects: int64(s.devices), Bytes: int64(s.devices) * 8 << 10, Largest: 8 << 10}
	web := httptest.NewServer(apiserver.Within(128*megabyte, func(context.Context, string) (datastore.Size, error) { return size, nil }, s))
	t.Cleanup(web.Close)
	return web
}

func get(t *testing.T, address, accept, encoding string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	return http.DefaultClient.Do(r)
}

type deviceList struct {
	Kind, APIVersion string
	Metadata         map[string]any
	Items            []struct{ Metadata struct{ Name string } }
}

// A large list is read in pages, and arrives as one.
func TestLargeListsAreReadInPages(t *testing.T) {
	t.Parallel()
	const many = 1000
	for name, tc := range map[string]struct {
		devices                 int
		query, accept, encoding string
		pages                   int
	}{
		"many":             {many, "", "application/json", "identity", 4},
		"compressed":       {many, "?resourceVersion=5&resourceVersionMatch=NotOlderThan", "", "gzip", 4},
		"anything":         {many, "?labelSelector=a", "*/*", "identity", 4},
		"metadata":         {many, "", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "identity", 4},
		"few":              {10, "", "application/json", "identity", 1},
		"a table":          {many, "", "application/json;as=Table;g=meta.k8s.io;v=v1", "identity", 1},
		"protobuf":         {many, "", "application/vnd.kubernetes.protobuf", "identity", 1},
		"a client's pages": {many, "?limit=100000", "application/json", "identity", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &shelf{devices: tc.devices}
			answer, err := get(t, s.listing(t).URL+devices+tc.query, tc.accept, tc.encoding)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var body io.Reader = answer.Body
			if tc.encoding == "gzip" {
				if answer.Header.Get("Content-Encoding") != "gzip" {
					t.Fatal("it is not compressed")
				}
				if body, err = gzip.NewReader(body); err != nil {
					t.Fatal(err)
				}
			}
			var got deviceList
			if err := json.NewDecoder(body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if got.Kind != "DeviceList" || len(got.Items) != tc.devices || got.Items[tc.devices-1].Metadata.Name != fmt.Sprintf("d%d", tc.devices-1) {
				t.Errorf("a %s of %d", got.Kind, len(got.Items))
			}
			if diff := cmp.Diff(map[string]any{"resourceVersion": "7"}, got.Metadata); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			if len(s.asked) != tc.pages {
				t.Fatalf("%d pages, want %d", len(s.asked), tc.pages)
			}
			for i, q := range s.asked {
				if later := i > 0; later == q.Has("resourceVersion") && strings.Contains(tc.query, "resourceVersion") || later && q.Get("labelSelector") != s.asked[0].Get("labelSelector") {
					t.Errorf("page %d is asked by %v", i, q)
				}
			}
		})
	}
}

// A list whose first page fails is answered with that, and one that cannot be
// completed does not look complete.
func TestListsThatFail(t *testing.T) {
	t.Parallel()
	for fails, want := range map[int]int{1: http.StatusGone, 3: 0} {
		s := &shelf{devices: 1000, fails: fails}
		answer, err := get(t, s.listing(t).URL+devices, "application/json", "identity")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(answer.Body)
		if want != 0 && (answer.StatusCode != want || err != nil) {
			t.Errorf("page %d fails: status %d, %v", fails, answer.StatusCode, err)
		}
		if want == 0 && err == nil {
			t.Errorf("page %d fails: the list looks complete", fails)
		}
		_ = answer.Body.Close()
	}
}
