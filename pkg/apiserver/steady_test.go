package apiserver_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/apiserver"
)

// A watch ends whose client does not read, over either protocol. One whose client
// reads goes on, also when nothing happens for long.
func TestStalledWatchesEnd(t *testing.T) {
	t.Parallel()
	const stall = 500 * time.Millisecond
	for name, over2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan string, 2)
			piece := make([]byte, 64<<10)
			s := httptest.NewUnstartedServer(apiserver.Steady(stall, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				kind := r.URL.Query().Get("labelSelector")
				defer func() { ended <- kind }()
				w.(http.Flusher).Flush() // as upstream wants it
				for i := 0; r.Context().Err() == nil; i++ {
					if kind == "read" && i%10 == 0 {
						select { // nothing happens
						case <-time.After(2 * stall):
						case <-r.Context().Done():
						}
					}
					if _, err := w.Write(piece); err != nil {
						return
					}
					w.(http.Flusher).Flush()
				}
			})))
			s.EnableHTTP2 = over2
			s.StartTLS()
			defer func() { s.CloseClientConnections(); s.Close() }()
			open := func(kind string) io.ReadCloser {
				res, err := s.Client().Get(s.URL + devices + "?watch=true&resourceVersion=5&labelSelector=" + kind)
				if err != nil {
					t.Fatal(err)
				}
				return res.Body
			}
			silent, read := open("silent"), open("read")
			defer silent.Close()
			go func() { _, _ = io.Copy(io.Discard, read) }()
			select {
			case kind := <-ended:
				if kind != "silent" {
					t.Errorf("a watch that is read has ended")
				}
			case <-time.After(time.Minute):
				t.Fatal("a watch that nobody reads goes on")
			}
			select {
			case <-ended:
				t.Error("a watch that is read has ended as well")
			case <-time.After(6 * stall):
			}
			_ = read.Close()
			<-ended
		})
	}
}

// Of many requests of strangers, few wait.
func TestFewStrangersWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served, refused atomic.Int64
		h := apiserver.Strangers(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			time.Sleep(time.Hour)
			served.Add(1)
		}))
		var wg sync.WaitGroup
		const many = 1000
		for range many {
			wg.Go(func() {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil)); w.Code == http.StatusTooManyRequests {
					refused.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := refused.Load(); n < many-apiserver.MaxAnonymousWaiting-apiserver.MaxAnonymous {
			t.Errorf("%d of %d are refused at once", n, many)
		}
		wg.Wait()
		if served.Load() != apiserver.MaxAnonymous {
			t.Errorf("%d are served", served.Load())
		}
	})
}

// unread is a writer of an answer that nobody reads.
type unread struct {
	*httptest.ResponseRecorder

	closed <-chan struct{}
}

func (u unread) Write(p []byte) (int, error) {
	<-u.closed
	return len(p), nil
}

// A stranger that does not read its answers keeps nobody out.
func TestUnreadAnswersOfStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := apiserver.Strangers(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Test", "kept")
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write(make([]byte, 1<<20))
		}))
		closed := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 * apiserver.MaxAnonymous {
			wg.Go(func() {
				h.ServeHTTP(unread{httptest.NewRecorder(), closed}, httptest.NewRequest(http.MethodGet, "/livez", nil))
			})
		}
		synctest.Wait()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/livez", nil))
		if w.Code != http.StatusTeapot || w.Header().Get("X-Test") != "kept" || w.Body.Len() != 8<<10 {
			t.Errorf("another is answered with %d, %v and %d bytes", w.Code, w.Header(), w.Body.Len())
		}
		close(closed)
		wg.Wait()
	})
}
