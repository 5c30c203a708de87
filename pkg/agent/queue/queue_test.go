package queue_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errTest = errors.New("test")

// diary notes when keys ran.
type diary struct {
	mu    sync.Mutex
	begin time.Time
	runs  []time.Duration
}

func (d *diary) note() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs = append(d.runs, time.Since(d.begin).Round(time.Millisecond))
	return len(d.runs)
}

// again forgets the runs so far.
func (d *diary) again() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begin, d.runs = time.Now(), nil
}

func (d *diary) all() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]time.Duration{}, d.runs...)
}

// inBubble runs a queue in fake time.
func inBubble(t *testing.T, do func(ctx context.Context, key string, run queue.Run) (queue.Result, error), test func(q *queue.Queue[string])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := queue.New(slog.New(slog.DiscardHandler), do)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { q.Run(ctx); close(done) }()
		test(q)
		cancel()
		<-done
	})
}

func TestFailuresBackOffAndSuccessResets(t *testing.T) {
	t.Parallel()
	d := &diary{}
	var works atomic.Bool
	do := func(context.Context, string, queue.Run) (queue.Result, error) {
		d.note()
		if !works.Load() {
			return queue.Result{}, errTest
		}
		return queue.Result{}, nil
	}
	inBubble(t, do, func(q *queue.Queue[string]) {
		d.begin = time.Now()
		q.Now("a")
		time.Sleep(time.Hour)
		runs := d.all()
		for i := 1; i < len(runs); i++ {
			pause := runs[i] - runs[i-1]
			longest := min(time.Second<<(i-1), 5*time.Minute)
			if i > 20 {
				longest = 5 * time.Minute
			}
			if pause > longest+time.Millisecond || pause < longest/2-time.Millisecond {
				t.Errorf("pause %d is %v, want %v to %v", i, pause, longest/2, longest)
			}
		}
		if len(runs) > 40 {
			t.Errorf("%d runs in an hour of failures", len(runs))
		}
		works.Store(true)
		before := len(runs)
		time.Sleep(time.Hour)
		if got := len(d.all()) - before; got != 1 {
			t.Errorf("%d runs after it worked again, want 1", got)
		}
	})
}

func TestAChangeDoesNotWaitForTheBackoff(t *testing.T) {
	t.Parallel()
	d := &diary{}
	do := func(context.Context, string, queue.Run) (queue.Result, error) {
		d.note()
		return queue.Result{}, errTest
	}
	inBubble(t, do, func(q *queue.Queue[string]) {
		q.Now("a")
		time.Sleep(30 * time.Minute)
		before := len(d.all())
		q.Now("a")
		synctest.Wait()
		if got := len(d.all()); got != before+1 {
			t.Errorf("%d runs, want %d", got, before+1)
		}
	})
}

// TestEventsArePaced: ten runs may follow each other at once, and then one comes every 200 ms.
// A minute of rest brings back the ten, and a key that fails has none of them.
func TestEventsArePaced(t *testing.T) {
	t.Parallel()
	d := &diary{}
	var broken atomic.Bool
	inBubble(t, func(context.Context, string, queue.Run) (queue.Result, error) {
		d.note()
		if broken.Load() {
			return queue.Result{}, errTest
		}
		return queue.Result{}, nil
	}, func(q *queue.Queue[string]) {
		ms := func(times ...int) (list []time.Duration) {
			for _, t := range times {
				list = append(list, time.Duration(t)*time.Millisecond)
			}
			return list
		}
		events := func(want []time.Duration) {
			t.Helper()
			d.again()
			for range 99 {
				q.Soon("a")
				time.Sleep(10 * time.Millisecond)
			}
			if diff := cmp.Diff(want, d.all()); diff != "" {
				t.Error(diff)
			}
			time.Sleep(time.Minute)
		}
		events(ms(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 400, 600, 800))
		events(ms(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 400, 600, 800))
		broken.Store(true)
		events(ms(0, 400))
	})
}

func TestPanicsAreFailures(t *testing.T) {
	t.Parallel()
	d := &diary{}
	inBubble(t, func(context.Context, string, queue.Run) (queue.Result, error) {
		if d.note() == 1 {
			panic("boom")
		}
		return queue.Result{}, nil
	}, func(q *queue.Queue[string]) {
		q.Now("a")
		time.Sleep(time.Minute)
		if got := len(d.all()); got != 2 {
			t.Errorf("%d runs, want 2", got)
		}
	})
}

func TestASlowKeyDelaysNoOther(t *testing.T) {
	t.Parallel()
	fast := &diary{}
	inBubble(t, func(ctx context.Context, key string, _ queue.Run) (queue.Result, error) {
		if key == "slow" {
			<-ctx.Done()
			return queue.Result{}, ctx.Err()
		}
		fast.note()
		return queue.Result{}, nil
	}, func(q *queue.Queue[string]) {
		q.Now("slow")
		synctest.Wait()
		q.Now("fast")
		synctest.Wait()
		if got := len(fast.all()); got != 1 {
			t.Errorf("%d runs of the fast key, want 1", got)
		}
	})
}

func TestAChangeSupersedesTheRun(t *testing.T) {
	t.Parallel()
	d := &diary{}
	inBubble(t, func(_ context.Context, _ string, run queue.Run) (queue.Result, error) {
		if d.note() == 1 {
			<-run.Superseded
			return queue.Result{}, errTest
		}
		return queue.Result{}, nil
	}, func(q *queue.Queue[string]) {
		q.Now("a")
		synctest.Wait()
		q.Now("a")
		q.Now("a")
		time.Sleep(time.Minute)
		if got := len(d.all()); got != 2 {
			t.Errorf("%d runs, want 2", got)
		}
	})
}

func TestAKeyRunsAgainWhenItAsks(t *testing.T) {
	t.Parallel()
	d := &diary{}
	inBubble(t, func(context.Context, string, queue.Run) (queue.Result, error) {
		if d.note() < 3 {
			return queue.Result{At: time.Now().Add(10 * time.Second)}, nil
		}
		return queue.Result{Done: true}, nil
	}, func(q *queue.Queue[string]) {
		d.begin = time.Now()
		q.Now("a")
		time.Sleep(time.Hour)
		if diff := cmp.Diff([]time.Duration{0, 10 * time.Second, 20 * time.Second}, d.all()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOneRunAtATimeForAKey(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	running, most := 0, 0
	inBubble(t, func(context.Context, string, queue.Run) (queue.Result, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(time.Second)
		mu.Lock()
		running--
		mu.Unlock()
		return queue.Result{}, nil
	}, func(q *queue.Queue[string]) {
		for range 50 {
			q.Now("a")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
	})
	if most != 1 {
		t.Errorf("%d runs at a time", most)
	}
}
