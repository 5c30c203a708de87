package reconcile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// TestWork calls a function that answers once with each answer, then with
// success, and counts calls within a minute of a clock that needs no waiting.
func TestWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer func() (time.Duration, error)
		calls  int
		log    string // "" for silence
	}{
		{"success", func() (time.Duration, error) { return 0, nil }, 1, ""},
		{"success for a while", func() (time.Duration, error) { return time.Second, nil }, 2, ""},
		{"error", func() (time.Duration, error) { return 0, errors.New("the disk is full") }, 2, "the disk is full"},
		{"conflict", func() (time.Duration, error) {
			return 0, apierrors.NewConflict(schema.GroupResource{Resource: "devices"}, "a", errors.New("changed"))
		}, 2, ""},
		{"later", func() (time.Duration, error) { return 0, fmt.Errorf("it is full: %w", reconcile.ErrLater) }, 2, ""},
		{"panic", func() (time.Duration, error) { panic("nil map") }, 2, "nil map"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var log bytes.Buffer
				queue := reconcile.NewQueue[string]("test", nil)
				queue.Add("a")
				calls := 0
				reconcile.Work(ctx, queue, slog.New(slog.NewTextHandler(&log, nil)), func(_ context.Context, key string) (time.Duration, error) {
					if key != "a" {
						t.Errorf("key is %q, want a", key)
					}
					if calls++; calls == 1 {
						return tc.answer()
					}
					return 0, nil
				})
				if calls != tc.calls {
					t.Errorf("%d calls, want %d", calls, tc.calls)
				}
				if got := log.String(); !strings.Contains(got, tc.log) || (got == "") != (tc.log == "") {
					t.Errorf("log is %q, want %q in it", got, tc.log)
				}
			})
		})
	}
}
