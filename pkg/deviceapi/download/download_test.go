package download_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/deviceapi/download"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clients ask for what takes until they are let go.
type clients struct {
	t       *testing.T
	handler http.Handler
	release chan struct{}

	mu      sync.Mutex // guards what follows
	active  int
	results map[string]map[int]int // by host and status
	done    sync.WaitGroup
}

func newClients(t *testing.T, all, each int) *clients {
	c := &clients{t: t, release: make(chan struct{}), results: map[string]map[int]int{}}
	c.handler = download.NewGate("tests", all, each).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		c.count(1)
		defer c.count(-1)
		<-c.release
	}))
	return c
}

func (c *clients) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active += n
}

func (c *clients) ask(ctx context.Context, host string, times int) {
	for range times {
		c.done.Go(func() {
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
			r.RemoteAddr = host + ":1234"
			w := httptest.NewRecorder()
			c.handler.ServeHTTP(w, r)
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.results[host] == nil {
				c.results[host] = map[int]int{}
			}
			c.results[host][w.Code]++
			if w.Code != http.StatusOK && w.Header().Get("Retry-After") == "" {
				c.t.Errorf("%d without Retry-After", w.Code)
			}
		})
	}
	synctest.Wait()
}

func (c *clients) expect(active int, results string) {
	c.t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := fmt.Sprint(c.results); c.active != active || got != results {
		c.t.Errorf("%d downloads, results %s, want %d, %s", c.active, got, active, results)
	}
}

func TestPlacesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClients(t, 5, 3)
		c.ask(t.Context(), "a", 4)
		c.expect(3, "map[]") // the fourth waits
		c.ask(t.Context(), "b", 3)
		c.expect(5, "map[]")
		c.release <- struct{}{} // a place for whoever may have it
		synctest.Wait()
		if c.active != 5 {
			t.Errorf("%d downloads", c.active)
		}
		for range 6 {
			c.release <- struct{}{}
		}
		c.done.Wait()
		c.expect(0, "map[a:map[200:4] b:map[200:3]]")
	})
}

func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClients(t, 1, 1)
		c.ask(t.Context(), "a", 1)
		ctx, cancel := context.WithCancel(t.Context())
		c.ask(ctx, "gone", 1)
		cancel()
		c.expect(1, "map[gone:map[503:1]]")
		c.ask(t.Context(), "b", 1)
		time.Sleep(21 * time.Second)
		c.expect(1, "map[b:map[503:1] gone:map[503:1]]")
		// Those that gave up hold no place.
		c.ask(t.Context(), "c", 1)
		c.release <- struct{}{}
		c.release <- struct{}{}
		c.done.Wait()
		c.expect(0, "map[a:map[200:1] b:map[503:1] c:map[200:1] gone:map[503:1]]")
	})
}

func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClients(t, 1, 1)
		c.ask(t.Context(), "a", 1)
		c.ask(t.Context(), "b", 1000)
		c.ask(t.Context(), "c", 1)
		c.expect(1, "map[c:map[503:1]]")
		close(c.release)
		c.done.Wait()
		c.expect(0, "map[a:map[200:1] b:map[200:1000] c:map[503:1]]")
	})
}

// A download outlives the time that the server gives to requests, for as long
// as the client reads.
func TestLongDownload(t *testing.T) {
	t.Parallel()
	const pieces, pause, patience = 30, 50 * time.Millisecond, time.Second
	gate := download.NewGate("tests", 1, 1)
	body := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range pieces {
			_, _ = w.Write([]byte("x")) // the client sees what is missing
			_ = http.NewResponseController(w).Flush()
			time.Sleep(pause)
		}
	})
	for what, tc := range map[string]struct {
		handler http.Handler
		want    bool
	}{"with the gate": {gate.Handler(body), true}, "without": {body, false}} {
		server := httptest.NewUnstartedServer(tc.handler)
		server.Config.WriteTimeout, server.Config.ReadTimeout = patience, patience
		server.Start()
		t.Cleanup(server.Close)
		transport := &http.Transport{DisableKeepAlives: true}
		r, err := (&http.Client{Transport: transport}).Get(server.URL)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r.Body)
			_ = r.Body.Close()
		}
		if ok := err == nil && len(got) == pieces; ok != tc.want {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
}

// crawling is a client that takes a byte now and then.
type crawling struct {
	httptest.ResponseRecorder
	every time.Duration
}

func (c *crawling) Write(p []byte) (int, error) {
	time.Sleep(c.every)
	return len(p), nil
}

// Who crawls keeps no place for ever while others wait; whoever is quick enough
// does, even beside many.
func TestSlowDownloadsMakeRoom(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hosts string // one letter for each place
		every time.Duration
		after time.Duration
		want  int
	}{
		"crawlers":              {"abcd", 15 * time.Second, time.Minute, http.StatusOK},
		"one host has several":  {"aabc", time.Second, time.Minute, http.StatusOK},
		"quick ones":            {"abcd", time.Second, time.Minute, http.StatusServiceUnavailable},
		"those that just began": {"aaaa", 5 * time.Second, 0, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				handler := download.NewGate("tests", len(tc.hosts), len(tc.hosts)).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/short" {
						return
					}
					for piece := make([]byte, 32<<10); ; {
						if _, err := w.Write(piece); err != nil {
							return
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				}))
				ask := func(w http.ResponseWriter, path string, host rune) {
					r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
					r.RemoteAddr = string(host) + ":1"
					handler.ServeHTTP(w, r)
				}
				var running sync.WaitGroup
				for _, host := range tc.hosts {
					running.Go(func() { ask(&crawling{*httptest.NewRecorder(), tc.every}, "/long", host) })
				}
				time.Sleep(tc.after)
				synctest.Wait()
				w := httptest.NewRecorder()
				ask(w, "/short", 'z')
				if w.Code != tc.want {
					t.Errorf("a newcomer is answered %d, want %d", w.Code, tc.want)
				}
				close(stop)
				running.Wait()
			})
		})
	}
}
