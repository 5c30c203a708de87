package enrollment

import (
	"context"
	"errors"
	"sync"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// errNoRead: whoever read for others ended without a result.
var errNoRead = errors.New("the token was not read")

// reads reads tokens from the API for all who ask at one time: whoever asks while a read
// of the token is under way shares the next one. So each gets the token as it was at some
// moment after it asked, as if it had read it itself.
type reads struct {
	mu sync.Mutex // guards what follows
	// present are the reads under way, next those that begin when these are over, by token.
	present, next map[string]*read
}

// read is one read of a token. token and err are set when done is closed; nobody may
// change the token.
type read struct {
	done  chan struct{}
	token *v1alpha1.EnrollmentToken
	err   error
}

// of returns a token as get reads it.
func (r *reads) of(ctx context.Context, name string, get func(context.Context) (*v1alpha1.EnrollmentToken, error)) (*v1alpha1.EnrollmentToken, error) {
	own, before, first := r.join(name)
	if !first {
		return own.wait(ctx)
	}
	defer r.end(name, own)
	if before != nil {
		_, _ = before.wait(context.Background()) // which is bounded, as own is
		r.begin(name, own)
	}
	own.token, own.err = get(ctx)
	return own.token, own.err
}

// wait waits for the result.
func (r *read) wait(ctx context.Context) (*v1alpha1.EnrollmentToken, error) {
	select {
	case <-r.done:
		return r.token, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join returns the next read of a token. first: the caller has to do it, after the one
// before, if there is one.
func (r *reads) join(name string) (own, before *read, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if own = r.next[name]; own != nil {
		return own, nil, false
	}
	if r.next == nil {
		r.present, r.next = map[string]*read{}, map[string]*read{}
	}
	own, before = &read{done: make(chan struct{}), err: errNoRead}, r.present[name]
	if before == nil {
		r.present[name] = own
	} else {
		r.next[name] = own
	}
	return own, before, true
}

// begin lets nobody join a read any more.
func (r *reads) begin(name string, own *read) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.next, name)
	r.present[name] = own
}

func (r *reads) end(name string, own *read) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.present[name] == own {
		delete(r.present, name)
	}
	close(own.done)
}
