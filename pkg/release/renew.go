package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"fleet.nationtech.io/fleet/pkg/release/aptrepo"
	"fleet.nationtech.io/fleet/pkg/release/signing"
)

// How often a Keeper looks at the term of the signatures: a clock may be set at
// any time. After an error it waits longer.
const (
	keeperInterval = time.Minute
	keeperBackOff  = 10 * time.Minute
)

// Keeper renews the gateway's signatures before they expire.
type Keeper struct {
	Store  *Store
	Clock  Clock
	Logger *slog.Logger
}

// Run runs until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(k.look())
		}
	}
}

// look renews what is due and returns when to look again.
func (k *Keeper) look() time.Duration {
	until, err := k.Store.Renew(k.Clock)
	switch {
	case errors.Is(err, ErrNone), errors.Is(err, ErrBusy): // there is nothing to sign, or an import signs
	case err != nil:
		k.Logger.Error("the signatures of the repositories are not renewed: devices refuse the repositories when they expire", "error", err)
		return keeperBackOff
	case !until.IsZero():
		k.Logger.Info("the signatures of the repositories are renewed", "valid_until", until)
	}
	return keeperInterval
}

// Renew signs the repositories of the release that is served again if it is time
// to, and returns when the new signatures expire; zero if it was not.
func (s *Store) Renew(c Clock) (until time.Time, err error) {
	if t, due, err := s.due(c); err != nil || !due {
		return t.until, err
	}
	unlock, err := s.lock()
	if err != nil {
		return until, err
	}
	defer unlock()
	if err := s.sweep(); err != nil {
		return until, err
	}
	t, due, err := s.due(c) // an import may have been quicker
	if err != nil || !due {
		return t.until, err
	}
	return t.until, s.signAgain(t)
}

// due returns the next term, and whether it is time to sign it; the term is zero
// if it is not.
func (s *Store) due(c Clock) (next term, due bool, err error) {
	if _, err := s.current(); err != nil {
		return next, false, err
	}
	t, err := s.term()
	if err != nil {
		return next, false, err
	}
	if t, due = t.renewed(c.Now(), c.Sane() == nil); due {
		return t, true, nil
	}
	return next, false, nil
}

// term is that of the release that is served; zero if there is none.
func (s *Store) term() (t term, err error) {
	t.date, t.until, err = aptrepo.Term(filepath.Join(s.dir, currentName, wwwName, "apt"))
	if errors.Is(err, fs.ErrNotExist) {
		return term{}, nil
	}
	return t, err
}

// signAgain serves a copy of the release with other signatures.
func (s *Store) signAgain(t term) (err error) {
	version, err := s.Version()
	if err != nil {
		return err
	}
	key, err := signing.Load(filepath.Join(s.dir, signingKeyName), t.date)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(s.dir, importPrefix)
	if err != nil {
		return fmt.Errorf("signing the release again: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // nothing is left of it after success
	dir := filepath.Join(work, "release")
	if err := linkTree(filepath.Join(s.dir, currentName)+"/", dir); err != nil {
		return fmt.Errorf("signing the release again: %w", err)
	}
	r := repositories{www: filepath.Join(dir, wwwName), key: key}
	if err := r.sign(t); err != nil {
		return err
	}
	if err := r.publishKeys(r.path("mirror", version, packagesKeyName)); err != nil {
		return err
	}
	return s.switchTo(dir, version)
}

// linkTree copies a directory by hard links.
func linkTree(from, to string) error {
	return fs.WalkDir(os.DirFS(from), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		return os.Link(filepath.Join(from, name), filepath.Join(to, name))
	})
}
