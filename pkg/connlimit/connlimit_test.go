package connlimit_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/connlimit"
)

// fake is a listener whose connections come from any address.
type fake struct {
	queue chan any // net.Conn or error
	close sync.Once
}

func (f *fake) Accept() (net.Conn, error) {
	switch next := (<-f.queue).(type) {
	case net.Conn:
		return next, nil
	case error:
		return nil, next
	default:
		return nil, net.ErrClosed
	}
}

func (f *fake) Close() error   { f.close.Do(func() { close(f.queue) }); return nil }
func (f *fake) Addr() net.Addr { return &net.TCPAddr{} }

// remote is a connection from an address.
type remote struct {
	net.Conn
	from net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.from }

// site is a listener with clients.
type site struct {
	t        *testing.T
	fake     *fake
	listener *connlimit.Listener
	accepted chan *connlimit.Conn
	refused  map[string]int
	port     uint16
}

func newSite(t *testing.T, limits connlimit.Limits) *site {
	s := &site{t: t, fake: &fake{queue: make(chan any)}, accepted: make(chan *connlimit.Conn, 1000), refused: map[string]int{}}
	s.listener = connlimit.New(s.fake, limits, func(reason string) { s.refused[reason]++ }, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := s.listener.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("accepting ended with %v", err)
				}
				return
			}
			s.accepted <- c.(*connlimit.Conn)
		}
	}()
	t.Cleanup(func() { _ = s.listener.Close(); <-done })
	return s
}

// client is one end of a connection, conn the other; nil when it was refused.
type client struct {
	net.Conn
	conn *connlimit.Conn
}

// open reports whether the server has not closed the connection.
func (c client) open() bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := c.Read(make([]byte, 1))
	return !errors.Is(err, io.EOF)
}

func (s *site) dial(host string) client {
	s.t.Helper()
	s.port++
	near, far := net.Pipe()
	s.t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	s.fake.queue <- remote{far, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), s.port))}
	synctest.Wait()
	select {
	case c := <-s.accepted:
		return client{near, c}
	default:
		return client{Conn: near}
	}
}

var limits = connlimit.Limits{Strangers: 8, OfHost: 4, OfSite: 6, Local: 2, Known: 4}

func TestOneNetworkTakesItsShare(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		host func(i int) string
		want int
	}{
		"IPv4 address": {func(int) string { return "192.0.2.1" }, limits.OfHost},
		"mapped":       {func(int) string { return "::ffff:192.0.2.1" }, limits.OfHost},
		"IPv6 /64":     {func(i int) string { return fmt.Sprintf("2001:db8::%d", i+1) }, limits.OfHost},
		"IPv6 /48":     {func(i int) string { return fmt.Sprintf("2001:db8:0:%d::1", i) }, limits.OfSite},
		"everybody":    {func(i int) string { return fmt.Sprintf("192.0.2.%d", i+1) }, limits.Strangers},
		"this machine": {func(int) string { return "127.0.0.1" }, limits.Local},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, limits)
				for i := range 20 {
					s.dial(tc.host(i))
				}
				if n, _ := s.listener.Count(); n != tc.want {
					t.Errorf("%d connections are there, want %d", n, tc.want)
				}
				if s.refused["displaced"] != 20-tc.want {
					t.Errorf("counted: %v", s.refused)
				}
			})
		})
	}
}

// A newcomer gets the place of a silent connection of the largest network.
func TestSilentCrowdMakesRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		var crowd []client
		for i := range limits.Strangers {
			crowd = append(crowd, s.dial(fmt.Sprintf("192.0.2.%d", i/4+1)))
			time.Sleep(time.Millisecond)
		}
		newcomer := s.dial("198.51.100.1")
		if newcomer.conn == nil || !newcomer.open() {
			t.Fatal("the newcomer has no place")
		}
		if crowd[0].open() || !crowd[1].open() {
			t.Error("another one than the oldest of the largest network had to go")
		}
		if s.refused["displaced"] != 1 || s.refused["connections"] != 0 {
			t.Errorf("counted: %v", s.refused)
		}
	})
}

// The same network: who has said nothing for long loses its place first, and who
// waits for the server keeps it.
func TestPlacesWithinANetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		const host = "192.0.2.1"
		var all []client
		for range limits.OfHost {
			all = append(all, s.dial(host))
		}
		all[0].conn.Busy()
		time.Sleep(3 * time.Second)
		all[1].conn.Busy()
		all[1].conn.Idle()
		if s.dial(host).conn == nil {
			t.Fatal("a network of silent connections keeps its own newcomers out")
		}
		for i, want := range []bool{true, true, false, true} {
			if all[i].open() != want {
				t.Errorf("connection %d is open: %v, want %v", i, !want, want)
			}
		}
	})
}

// A crowd of one address that comes again and again leaves a place to whoever comes
// from there as well: one that has said something outlives those that have not, and
// one that has not has a chance.
func TestCrowdThatComesAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		const host = "192.0.2.1"
		for range limits.OfHost {
			s.dial(host)
		}
		survived := 0
		const tries = 200
		for range tries {
			c := s.dial(host)
			if c.conn == nil {
				t.Fatal("a newcomer has no place")
			}
			s.dial(host) // the crowd is as fast as it is
			if !c.open() {
				continue
			}
			survived++
			c.conn.Busy()
			c.conn.Idle()
			for range 100 {
				s.dial(host)
			}
			if !c.open() {
				t.Fatal("who has said something makes room for who has not")
			}
			_ = c.conn.Close()
		}
		if survived < tries/2 {
			t.Errorf("%d of %d newcomers kept their place for a moment", survived, tries)
		}
		// Those that wait for the server lose no place.
		for range limits.OfHost {
			s.dial(host).conn.Busy()
		}
		if s.dial(host).conn != nil {
			t.Error("the server begins what it does not end")
		}
	})
}

// Where the server is busy with all of a crowd, its newest goes.
func TestBusyCrowdMakesRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		var crowd []client
		for i := range limits.Strangers {
			c := s.dial(fmt.Sprintf("192.0.2.%d", i/4+1))
			c.conn.Busy()
			crowd = append(crowd, c)
		}
		if s.dial("198.51.100.1").conn == nil {
			t.Fatal("the newcomer has no place")
		}
		if !crowd[0].open() || crowd[3].open() {
			t.Error("another one than the newest of the largest network had to go")
		}
	})
}

func TestKnownHavePlacesOfTheirOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		const nat = "192.0.2.1"
		// A site behind one address has more than one host may have of strangers.
		for i := range limits.Known {
			c := s.dial(nat)
			if err := c.conn.Know(fmt.Sprintf("device-%d", i%2), 2); err != nil {
				t.Fatal(err)
			}
			c.conn.Busy()
		}
		strangers, known := s.listener.Count()
		if diff := cmp.Diff([]int{0, limits.Known}, []int{strangers, known}); diff != "" {
			t.Errorf("strangers and known (-want +got):\n%s", diff)
		}
		c := s.dial(nat)
		if err := c.conn.Know("device-0", 2); !errors.Is(err, connlimit.ErrFull) {
			t.Errorf("a third connection of one for two: %v", err)
		}
		if err := c.conn.Know("device-9", 2); err != nil || !c.open() {
			t.Errorf("who has none takes one of who has two: %v", err)
		}
		for range 100 {
			s.dial(nat)
		}
		if _, known := s.listener.Count(); known != limits.Known {
			t.Errorf("strangers left %d of those that are known", known)
		}
		_ = c.conn.Close()
		_ = c.conn.Close()
		if _, known := s.listener.Count(); known != limits.Known-1 {
			t.Errorf("a place that was given back twice: %d are taken", known)
		}
	})
}

func TestStrangersHaveLittleToSay(t *testing.T) {
	t.Parallel()
	with := limits
	with.StrangerBytes = 10
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, with)
		known, stranger := s.dial("192.0.2.1"), s.dial("192.0.2.1")
		if err := known.conn.Know("x", 0); err != nil {
			t.Fatal(err)
		}
		for c, wants := range map[client]int64{known: 30, stranger: 10} {
			go func() {
				for range 3 {
					_, _ = c.Write(make([]byte, 10))
				}
				_ = c.Close()
			}()
			if n, _ := io.Copy(io.Discard, c.conn); n != wants {
				t.Errorf("%d bytes were read, want %d", n, wants)
			}
		}
	})
}

// A lack of descriptors is no end; silent connections make room.
func TestAcceptingOutlivesErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		silent := s.dial("192.0.2.1")
		for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, io.ErrUnexpectedEOF} {
			s.fake.queue <- &net.OpError{Op: "accept", Err: err}
		}
		if s.dial("192.0.2.2").conn == nil {
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(s.accepted) == 0 {
				t.Fatal("nobody is accepted any more")
			}
		}
		if silent.open() || s.refused["descriptors"] != 5 {
			t.Errorf("the silent connection is still there, or nothing was counted: %v", s.refused)
		}
	})
}

// Every connection that ends gives its place back, whatever came before.
func TestPlacesComeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, limits)
		for i := range 200 {
			c := s.dial(fmt.Sprintf("2001:db8:%d:%d::1", i%3, i%7))
			if c.conn == nil {
				continue
			}
			if i%5 == 0 {
				_ = c.conn.Know(fmt.Sprintf("device-%d", i%4), 3)
			}
			if i%3 == 0 {
				_ = c.conn.Close()
			}
			time.Sleep(time.Second)
			s.t.Cleanup(func() { _ = c.conn.Close() })
		}
		for range limits.All() {
			s.dial("192.0.2.1")
		}
		if n, known := s.listener.Count(); n > limits.Strangers || known > limits.Known {
			t.Errorf("%d and %d connections", n, known)
		}
	})
}
