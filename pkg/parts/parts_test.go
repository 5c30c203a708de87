package parts_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/parts"
)

var errBroken = errors.New("broken")

// untilStopped is a part that works until it is told to stop, then ends with err.
func untilStopped(err error) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		return err
	}
}

func TestPartsStopInTheReverseOrder(t *testing.T) {
	t.Parallel()
	p := parts.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	var order []string
	note := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name) // one at a time: each is waited for
			return nil
		}
	}
	p.OnStop("lock", func() error { order = append(order, "lock"); return nil })
	p.Run("store", note("store"))
	p.Run("api", note("api"))
	p.Run("controllers", note("controllers"))
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"controllers", "api", "store", "lock"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if err := p.Stop(); err != nil || len(order) != 4 {
		t.Errorf("the second stop: %v, %v", err, order)
	}
}

func TestPartThatEndsByItselfIsNamed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ends error
		says string
	}{
		"with an error":            {errBroken, "api: broken"},
		"without one":              {nil, "api: it ended by itself"},
		"with a cancelled request": {context.Canceled, "api: context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := parts.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
			p.Run("store", untilStopped(nil))
			p.Run("api", func(context.Context) error { return tc.ends })
			err := <-p.Failed()
			if err.Error() != tc.says || tc.ends != nil && !errors.Is(err, tc.ends) {
				t.Errorf("failure is %q, want %q", err, tc.says)
			}
			if err := p.Stop(); err != nil {
				t.Errorf("the failure is reported twice: %v", err)
			}
		})
	}
}

func TestFirstFailureCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := parts.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
		p.Run("first", func(context.Context) error { return errBroken })
		synctest.Wait()
		for range 3 { // must not block either
			p.Run("consequence", func(context.Context) error { return nil })
		}
		synctest.Wait()
		if err := <-p.Failed(); !strings.HasPrefix(err.Error(), "first:") {
			t.Errorf("failure is %v", err)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestErrorsOfStoppingAreAllReported(t *testing.T) {
	t.Parallel()
	p := parts.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	other := errors.New("other")
	p.Run("a", untilStopped(errBroken))
	p.Run("b", untilStopped(context.Canceled)) // it was starting
	p.OnStop("c", func() error { return other })
	lost := errors.New("lost")
	p.Run("d", untilStopped(fmt.Errorf("closing: %w", errors.Join(context.Canceled, lost))))
	err := p.Stop()
	for _, want := range []error{errBroken, other, lost} {
		if !errors.Is(err, want) {
			t.Errorf("error is %v, want %v in it", err, want)
		}
	}
	if errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, which says that parts were told to stop", err)
	}
}
