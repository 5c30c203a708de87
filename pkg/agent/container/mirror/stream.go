package mirror

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"os"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/pace"
)

const (
	// maxAttempts bounds the attempts in a row that bring nothing, over all places; patience
	// is the time before the second.
	maxAttempts = 6
	patience    = time.Second
)

// stream brings a blob to podman: first what is kept of it, then the rest from one place or
// another. The last piece goes when the whole is known to be right.
type stream struct {
	*Transfer

	digest     string
	size, from int64
	hash       hash.Hash
	w          http.ResponseWriter
	file       *os.File // nil when nothing is kept
	have       int64
	begun      bool
}

func (s *stream) run(ctx context.Context) error {
	slots := s.mirror.slots
	if err := slots.Acquire(ctx, 1); err != nil {
		return err //nolint:wrapcheck // that of ctx
	}
	defer slots.Release(1)
	if s.Room != nil {
		if err := s.Room(ctx, s.size); err != nil {
			return err
		}
	}
	if s.file = s.mirror.parts.open(s.digest, s.size); s.file != nil {
		defer s.file.Close()
		if err := s.replay(ctx); err != nil {
			return err
		}
	}
	attempt := 0
	for s.have < s.size {
		before := s.have
		err := s.attempt(ctx, s.way(attempt))
		if s.have == s.size || ctx.Err() != nil {
			return err
		}
		if s.have > before {
			attempt = 0
			continue
		}
		if attempt++; attempt >= max(maxAttempts, len(s.ways)) || s.isFinal(err, attempt) {
			return err
		}
		if err := sleep(ctx, patience<<min(attempt-1, 4)); err != nil {
			return err
		}
	}
	return nil
}

// isFinal reports whether every place was asked, and the last error is one that passes by
// itself never.
func (s *stream) isFinal(err error, attempts int) bool {
	return errors.Is(err, errContent) || errors.Is(err, errPodman) || errors.Is(err, container.ErrNoSpace) ||
		attempts >= len(s.ways) && (errors.Is(err, ErrRefused) || errors.Is(err, ErrNotFound))
}

var (
	errContent = fmt.Errorf("%w: it sends another content than the digest says", ErrUnavailable)
	errPodman  = errors.New("podman takes nothing more")
)

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replay gives podman what is kept.
func (s *stream) replay(ctx context.Context) error {
	buffer := make([]byte, pace.Piece)
	for s.have < s.size {
		n, err := s.file.Read(buffer[:min(pace.Piece, s.size-s.have)])
		if n == 0 || err != nil {
			return nil //nolint:nilerr // the rest comes from elsewhere
		}
		if err := s.pass(ctx, buffer[:n], true); err != nil {
			return err
		}
	}
	return nil
}

// attempt takes from one place.
func (s *stream) attempt(ctx context.Context, w *way) error {
	content, begins, err := w.blob(ctx, s.digest, s.size, s.have)
	if err != nil {
		return err
	}
	defer content.Close()
	buffer := make([]byte, pace.Piece)
	for skip := s.have - begins; skip > 0; {
		n, err := content.Read(buffer[:min(pace.Piece, skip)])
		if err != nil {
			return w.explain(err)
		}
		if err := s.mirror.pace.Wait(ctx, n); err != nil {
			return err
		}
		skip -= int64(n)
	}
	for s.have < s.size {
		n, err := content.Read(buffer[:min(pace.Piece, s.size-s.have)])
		if n > 0 {
			if err := s.mirror.pace.Wait(ctx, n); err != nil {
				return err
			}
			if err := s.pass(ctx, buffer[:n], false); err != nil {
				return err
			}
		}
		if err != nil && s.have < s.size {
			return fmt.Errorf("%w: %s ended after %d of %d bytes", ErrUnavailable, w.called, s.have, s.size)
		}
	}
	return nil
}

// pass gives podman a piece, and keeps it unless it is kept.
func (s *stream) pass(ctx context.Context, p []byte, kept bool) error {
	_, _ = s.hash.Write(p) // never fails
	if s.file != nil && !kept {
		if _, err := s.file.WriteAt(p, s.have); err != nil {
			_ = s.file.Close()
			s.file = nil
			s.mirror.parts.drop(s.digest)
		}
	}
	at := s.have
	s.have += int64(len(p))
	if s.have == s.size && "sha256:"+hex.EncodeToString(s.hash.Sum(nil)) != s.digest {
		s.mirror.parts.drop(s.digest)
		return errContent
	}
	s.mu.Lock()
	s.brought[s.digest] = s.have
	s.mu.Unlock()
	if s.from > at {
		p = p[min(s.from-at, int64(len(p))):]
	}
	if !s.begun {
		header(s.w, s.digest, s.size, s.from)
		s.begun = true
	}
	if _, err := s.w.Write(p); err != nil {
		return fmt.Errorf("%w: %s", errPodman, strings.Join(strings.Fields(err.Error()), " "))
	}
	return ctx.Err()
}
