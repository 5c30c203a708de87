package guard_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func writeNilMap(m map[string]int) { m["a"] = 1 }

func beyondBounds(list []int) int { return list[len(list)] }

// A panic is counted each time and reported with its stack once for each place.
func TestAPanicIsReportedOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	panics := guard.NewPanics()
	g := panics.Loop("test", slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		if err := g.Try(func() error { writeNilMap(nil); return nil }, "key", "shop"); err == nil || err.Error() != "panic: assignment to entry in nil map" {
			t.Errorf("the panic became %v", err)
		}
		g.Do(func() { beyondBounds(nil) })
	}
	if n := testutil.ToFloat64(panics.Collectors()[0]); n != 6 {
		t.Errorf("%v panics are counted, want 6", n)
	}
	said := log.String()
	if n := strings.Count(said, "stack="); n != 2 || !strings.Contains(said, "writeNilMap") || !strings.Contains(said, "beyondBounds") || !strings.Contains(said, "key=shop") || !strings.Contains(said, "loop=test") {
		t.Errorf("%d stacks are reported, want 2:\n%s", n, said)
	}
}

func TestOtherErrorsAreTheStepsOwn(t *testing.T) {
	t.Parallel()
	panics, full := guard.NewPanics(), errors.New("the disk is full")
	g := panics.Loop("test", slog.New(slog.DiscardHandler))
	if err := g.Try(func() error { return full }); !errors.Is(err, full) {
		t.Errorf("the error became %v", err)
	}
	called := false
	if g.Do(func() { called = true }); !called {
		t.Error("the step was not called")
	}
	if n := testutil.ToFloat64(panics.Collectors()[0]); n != 0 {
		t.Errorf("%v panics are counted, want none", n)
	}
}

// A loop that panics runs again, later each time, until it ends by itself or is told to.
func TestKeep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		panics, full := guard.NewPanics(), errors.New("the disk is full")
		g := panics.Loop("test", slog.New(slog.DiscardHandler))
		runs, began := 0, time.Now()
		err := g.Keep(t.Context(), func(context.Context) error {
			if runs++; runs < 5 {
				writeNilMap(nil)
			}
			return full
		})
		if !errors.Is(err, full) || runs != 5 || testutil.ToFloat64(panics.Collectors()[0]) != 4 {
			t.Errorf("%d runs ended with %v", runs, err)
		}
		if took := time.Since(began); took < time.Second || took > 30*time.Second {
			t.Errorf("four pauses took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		runs = 0
		if err := g.Keep(ctx, func(context.Context) error { runs++; writeNilMap(nil); return nil }); err != nil {
			t.Errorf("told to end, it returned %v", err)
		}
		if runs < 10 || runs > 200 {
			t.Errorf("%d runs in an hour", runs)
		}
	})
}

// A loop that panics once a day begins anew within a second each time.
func TestPausesBeginAnewAfterALongRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := guard.NewPanics().Loop("test", slog.New(slog.DiscardHandler))
		const day = 24 * time.Hour
		runs, began := 0, time.Now()
		_ = g.Keep(t.Context(), func(context.Context) error {
			if runs++; runs <= 20 {
				time.Sleep(day)
				writeNilMap(nil)
			}
			return nil
		})
		if pauses := time.Since(began) - 20*day; pauses > 20*time.Second {
			t.Errorf("20 pauses took %s", pauses)
		}
	})
}

// A handler's mistake ends its answer, and is reported. That it ends its answer on purpose is not.
func TestHandlers(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	panics := guard.NewPanics()
	g := panics.Loop("test", slog.New(slog.NewTextHandler(&log, nil)))
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		ends    bool
	}{
		"answers":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, false},
		"ends on purpose": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, true},
		"panics":          {func(http.ResponseWriter, *http.Request) { writeNilMap(nil) }, true},
		"panics again":    {func(http.ResponseWriter, *http.Request) { writeNilMap(nil) }, true},
	} {
		func() {
			defer func() {
				if p := recover(); (p == http.ErrAbortHandler) != tc.ends || p != nil && !tc.ends {
					t.Errorf("%s: it ends with %v", name, p)
				}
			}()
			w := httptest.NewRecorder()
			if g.Handler(tc.handler).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ca", nil)); w.Code != http.StatusTeapot {
				t.Errorf("%s: status %d", name, w.Code)
			}
		}()
	}
	if n := testutil.ToFloat64(panics.Collectors()[0]); n != 2 {
		t.Errorf("%v panics are counted, want 2", n)
	}
	if said := log.String(); strings.Count(said, "stack=") != 1 || !strings.Contains(said, "writeNilMap") || !strings.Contains(said, "path=/ca") {
		t.Errorf("it is reported as:\n%s", said)
	}
}

// A guard of nothing that counts guards as well.
func TestNoCount(t *testing.T) {
	t.Parallel()
	var none *guard.Panics
	if err := none.Loop("test", slog.New(slog.DiscardHandler)).Try(func() error { writeNilMap(nil); return nil }); err == nil {
		t.Error("the panic became no error")
	}
}
