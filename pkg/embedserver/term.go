package embedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/controllers/term"
)

// termFile holds the last term, beside the API store: a store that is restored
// from a backup is behind it.
const termFile = "last-term.json"

// takeTerm takes the next term and remembers it.
func (s *server) takeTerm(ctx context.Context) (term.Term, error) {
	seen, err := readTerm(s.path(termFile))
	if err != nil {
		return term.Term{}, err
	}
	t, err := term.Take(ctx, s.kube, seen)
	if err != nil {
		return term.Term{}, err
	}
	if seen.Epoch != "" && seen.Epoch != t.Epoch {
		s.Logger.Warn("the API store was restored from a backup: a new epoch begins, and devices hold what the backup does not name until an operator confirms it",
			"epoch", t.Epoch)
	}
	data, err := json.Marshal(t)
	if err != nil {
		return term.Term{}, fmt.Errorf("encoding the term: %w", err)
	}
	return t, atomicfile.Write(s.path(termFile), data, 0o600)
}

// readTerm returns the zero term when there is none, or only a damaged one.
func readTerm(path string) (t term.Term, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return term.Term{}, nil
	}
	if err != nil {
		return term.Term{}, fmt.Errorf("reading the last term: %w", err)
	}
	if json.Unmarshal(data, &t) != nil {
		return term.Term{}, nil
	}
	return t, nil
}
