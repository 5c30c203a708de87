package connlimit

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
)

type contextKey struct{}

// ConnContext is for http.Server: requests know their connection by it.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if c, ok := conn.(*Conn); ok {
		return context.WithValue(ctx, contextKey{}, c)
	}
	return ctx
}

// OfRequest returns the connection that a request came over.
func OfRequest(r *http.Request) (c *Conn, ok bool) {
	c, ok = r.Context().Value(contextKey{}).(*Conn)
	return c, ok
}

// Handler lets connections keep their places while next works for them. who
// returns whose certificate a request came with, if it is one that is known,
// and who may have so many connections, zero for any number.
func Handler(next http.Handler, most int, who func(*http.Request) (holder string, ok bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := OfRequest(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if !c.Known() && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			if holder, ok := who(r); ok {
				_ = c.Know(holder, most) // else it goes on as a stranger
			}
		}
		t := &turn{ReadCloser: r.Body, conn: c}
		defer t.end()
		if r.ContentLength == 0 || c.Known() {
			t.begin()
		} else {
			r.Body = t
		}
		next.ServeHTTP(w, r)
	})
}

// turn is the body of a request. It is the server's turn once all of it was
// read: a stranger who sends it piece by piece keeps no place by that.
type turn struct {
	io.ReadCloser

	conn *Conn

	mu           sync.Mutex // guards what follows
	begun, ended bool
}

func (t *turn) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun && !t.ended {
		t.begun = true
		t.conn.Busy()
	}
}

func (t *turn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	if t.begun {
		t.conn.Idle()
	}
}

// Read implements io.Reader.
func (t *turn) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err != nil {
		t.begin()
	}
	return n, err
}
