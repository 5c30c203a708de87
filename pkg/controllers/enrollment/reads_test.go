package enrollment

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// Whoever asks gets a token that was read after it asked, and those that ask together
// have it read once.
func TestReadsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r reads
		var mu sync.Mutex // guards began
		began := 0
		get := func(context.Context) (*v1alpha1.EnrollmentToken, error) {
			mu.Lock()
			began++
			n := began
			mu.Unlock()
			time.Sleep(time.Second)
			if n == 3 {
				return nil, errors.New("busy")
			}
			token := &v1alpha1.EnrollmentToken{}
			token.Name = strconv.Itoa(n)
			return token, nil
		}
		var asked sync.WaitGroup
		ask := func(name, want string) {
			asked.Go(func() {
				token, err := r.of(t.Context(), name, get)
				if got := "error"; err == nil {
					got = token.Name
					if got != want {
						t.Errorf("it is read number %s, want %s", got, want)
					}
				} else if want != got {
					t.Errorf("it is %v, want %s", err, want)
				}
			})
			synctest.Wait()
		}
		ask("a", "1")
		for range 10 { // while the first is read, so not of it
			ask("a", "2")
		}
		time.Sleep(1500 * time.Millisecond) // the second is read
		ask("a", "error")
		ask("a", "error")
		time.Sleep(time.Second) // the third
		ask("b", "4")           // another does not wait for it
		asked.Wait()
		ask("a", "5")
		asked.Wait()
		if began != 5 || len(r.present) != 0 || len(r.next) != 0 {
			t.Errorf("%d reads; left behind: %v, %v", began, r.present, r.next)
		}
	})
}

// Who waits does not wait for longer than it may, and a read that panics ends.
func TestReadsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r reads
		var asked sync.WaitGroup
		asked.Go(func() {
			defer func() { _ = recover() }()
			_, _ = r.of(t.Context(), "a", func(context.Context) (*v1alpha1.EnrollmentToken, error) {
				time.Sleep(time.Minute)
				panic("a mistake")
			})
		})
		synctest.Wait()
		asked.Go(func() {
			token, err := r.of(t.Context(), "a", func(context.Context) (*v1alpha1.EnrollmentToken, error) {
				return &v1alpha1.EnrollmentToken{}, nil
			})
			if token == nil || err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.of(ctx, "a", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		asked.Wait()
		if len(r.present) != 0 || len(r.next) != 0 {
			t.Errorf("left behind: %v, %v", r.present, r.next)
		}
	})
}
