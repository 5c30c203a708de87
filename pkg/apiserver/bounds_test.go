package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

const megabyte = 1 << 20

// load is an API whose requests each take a second.
type load struct {
	now, most, served, refused atomic.Int64
	handler                    http.Handler
	prefixes                   sync.Map
}

func newLoad(memory int64, size datastore.Size) *load {
	l := &load{}
	l.handler = apiserver.Within(memory, func(_ context.Context, prefix string) (datastore.Size, error) {
		l.prefixes.Store(prefix, true)
		return size, nil
	}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		l.most.Store(max(l.most.Load(), l.now.Add(1)))
		time.Sleep(time.Second)
		l.now.Add(-1)
	}))
	return l
}

// ask sends so many requests at once, and waits for all.
func (l *load) ask(n int, method, url string) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			w := httptest.NewRecorder()
			l.handler.ServeHTTP(w, httptest.NewRequest(method, url, strings.NewReader("{}")))
			if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") != "" {
				l.refused.Add(1)
				return
			}
			l.served.Add(1)
		})
	}
	wg.Wait()
}

const devices = "/apis/fleet.nationtech.io/v1alpha1/devices"

func TestListsWaitForMemory(t *testing.T) {
	t.Parallel()
	five := datastore.Size{Objects: 1000, Bytes: 5 * megabyte, Largest: 5 << 10}
	huge := datastore.Size{Objects: 1000, Bytes: 5000 * megabyte, Largest: 5 * megabyte}
	for name, tc := range map[string]struct {
		size        datastore.Size
		method, url string
		n           int
		most        int64 // at once
	}{
		"lists":               {five, http.MethodGet, devices, 50, 2},
		"a list of too much":  {huge, http.MethodGet, devices, 3, 1},
		"pages of some":       {five, http.MethodGet, devices + "?limit=100", 20, 2},
		"pages":               {five, http.MethodGet, devices + "?limit=100", 30, 2},
		"short pages":         {five, http.MethodGet, devices + "?limit=10", 100, 100},
		"pages of much":       {huge, http.MethodGet, devices + "?limit=100", 3, 1},
		"lists of a selector": {five, http.MethodGet, devices + "?labelSelector=a", 5, 2},
		"one by name":         {five, http.MethodGet, devices + "?fieldSelector=metadata.name%3Da", 30, 30},
		"deletions of all":    {five, http.MethodDelete, "/api/v1/namespaces/default/configmaps", 5, 2},
		"watches from zero":   {five, http.MethodGet, devices + "?watch=true", 5, 2},
		"watches from now on": {five, http.MethodGet, devices + "?watch=true&resourceVersion=7", 30, 30},
		"watches of the past": {five, http.MethodGet, devices + "?watch=true&resourceVersion=7&sendInitialEvents=true", 5, 2},
		"requests of one":     {five, http.MethodGet, devices + "/a", 100, 100},
		"small writes":        {five, http.MethodPost, devices, 100, 100},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLoad(128*megabyte, tc.size)
				l.ask(tc.n, tc.method, tc.url)
				if most := l.most.Load(); most != tc.most {
					t.Errorf("%d at once, want %d", most, tc.most)
				}
				if l.served.Load() == 0 || (tc.n > int(12*tc.most)) != (l.refused.Load() > 0) {
					t.Errorf("%d served, %d refused", l.served.Load(), l.refused.Load())
				}
			})
		})
	}
}

// However many ask for everything at once, what is small waits for none of them: it takes
// as long as it does alone.
func TestSmallRequestsWaitForNoList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoad(128*megabyte, datastore.Size{Objects: 1000, Bytes: 5 * megabyte, Largest: 5 << 10})
		const lists = 200
		var flood sync.WaitGroup
		flood.Go(func() { l.ask(lists, http.MethodGet, devices) })
		synctest.Wait() // two are read, some wait, and others were told to come back
		if l.now.Load() != apiserver.LargeLists || l.refused.Load() == 0 {
			t.Fatalf("%d lists are read, %d were refused", l.now.Load(), l.refused.Load())
		}
		for name, request := range map[string]string{
			"one object": http.MethodGet + " " + devices + "/a", "one by name": http.MethodGet + " " + devices + "?fieldSelector=metadata.name%3Da",
			"a short page": http.MethodGet + " " + devices + "?limit=10", "a change": http.MethodPut + " " + devices + "/a", "a new object": http.MethodPost + " " + devices,
			"a deletion": http.MethodDelete + " " + devices + "/a", "a watch": http.MethodGet + " " + devices + "?watch=true&resourceVersion=7", "its health": http.MethodGet + " /readyz",
		} {
			method, url, _ := strings.Cut(request, " ")
			served, begin := l.served.Load(), time.Now()
			l.ask(1, method, url)
			if took := time.Since(begin); took != time.Second || l.served.Load() <= served {
				t.Errorf("%s takes %s beside lists, a second alone", name, took)
			}
		}
		flood.Wait()
		if n := l.served.Load() + l.refused.Load(); n != lists+8 {
			t.Errorf("%d requests were answered", n)
		}
	})
}

// What is asked of the storage is the prefix that the objects are under.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	l := newLoad(megabyte, datastore.Size{})
	for _, url := range []string{devices, "/api/v1/namespaces", "/api/v1/configmaps", "/api/v1/namespaces/site/secrets", "/apis/fleet.nationtech.io/v1alpha1/namespaces/a/deployments"} {
		l.ask(1, http.MethodGet, url)
	}
	got := map[string]bool{}
	l.prefixes.Range(func(k, _ any) bool { got[k.(string)] = true; return true })
	want := map[string]bool{
		"/registry/fleet.nationtech.io/devices/": true, "/registry/namespaces/": true, "/registry/configmaps/": true,
		"/registry/secrets/site/": true, "/registry/fleet.nationtech.io/deployments/a/": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("prefixes (-want +got):\n%s", diff)
	}
}

func TestCountValues(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]int{
		"": 0, "1": 0, `{}`: 1, `{"a":1,"b":[1,2,3]}`: 5, `{"a":"x,{[\",{["}`: 1, `[[[[`: 4, `"\\",[`: 2,
	} {
		if got := apiserver.CountValues([]byte(doc)); got != want {
			t.Errorf("%s has %d values, want %d", doc, got, want)
		}
	}
	for n := range 100 {
		m := map[string]int{}
		for i := range n {
			m[fmt.Sprintf(`"{%d,`, i)] = i
		}
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := apiserver.CountValues(data); got != max(1, n) {
			t.Errorf("%d fields are counted as %d", n, got)
		}
	}
}
