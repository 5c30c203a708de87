package handshake

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// through enters a gate and records the order of those that get in.
func through(t *testing.T, g *Gate, host string, order *[]string) (leave chan struct{}) {
	leave = make(chan struct{})
	go func() {
		l, err := g.enter(t.Context(), host)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			return
		}
		*order = append(*order, host)
		<-leave
		l()
		l() // twice is fine
	}()
	synctest.Wait()
	return leave
}

func TestHostsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Gate{free: 1, waiting: map[string][]chan struct{}{}}
		var order []string
		var leaves []chan struct{}
		for _, host := range []string{"flood", "flood", "flood", "flood", "a", "b", "a"} {
			leaves = append(leaves, through(t, g, host, &order))
		}
		if len(order) != 1 {
			t.Fatalf("%v are in, there is one place", order)
		}
		for range leaves {
			i := in(order, leaves)
			close(leaves[i])
			leaves[i] = nil
			synctest.Wait()
		}
		if want := []string{"flood", "flood", "a", "b", "flood", "a", "flood"}; !slices.Equal(order, want) {
			t.Errorf("order is %v, want %v", order, want)
		}
		if g.free != 1 || g.total != 0 || len(g.turns) != 0 || len(g.waiting) != 0 {
			t.Errorf("left behind: %+v", g)
		}
	})
}

// in returns the index of the one that got in last: the oldest of its host
// that has not left.
func in(order []string, leaves []chan struct{}) int {
	hosts := []string{"flood", "flood", "flood", "flood", "a", "b", "a"}
	for i, host := range hosts {
		if host == order[len(order)-1] && leaves[i] != nil {
			return i
		}
	}
	return -1
}

func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Gate{free: 1, waiting: map[string][]chan struct{}{}}
		leave, err := g.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := g.enter(t.Context(), "b"); !errors.Is(err, ErrBusy) || time.Since(begin) != patience {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.enter(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a handshake that ended: %v", err)
		}
		leave()
		if g.free != 1 || g.total != 0 || len(g.turns) != 0 {
			t.Errorf("left behind: %+v", g)
		}
	})
}

func TestQueuesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &Gate{waiting: map[string][]chan struct{}{}}
		for range maxWaitingOfHost {
			go func() { _, _ = g.enter(t.Context(), "flood") }()
		}
		synctest.Wait()
		if _, err := g.enter(t.Context(), "flood"); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many of a host: %v", err)
		}
		// Another host still has a place in the queue.
		go func() {
			if leave, err := g.enter(t.Context(), "other"); err == nil {
				leave()
			} else {
				t.Errorf("another host: %v", err)
			}
		}()
		synctest.Wait()
		g.leave()
		g.leave()
		time.Sleep(2 * patience) // everybody gives up
	})
}

func TestHost(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1", "[::ffff:192.0.2.1]:1": "192.0.2.1",
		"[2001:db8:1:2:3::4]:1": "2001:db8:1:2::/64", "[2001:db8:1:2:ffff::]:2": "2001:db8:1:2::/64", "[2001:db8:1:3::]:2": "2001:db8:1:3::/64",
		"[fe80::1%eth0]:1": "fe80::/64", "@": "@",
	} {
		if got := Host(address); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}
