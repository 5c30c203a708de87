package embedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/client"
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
	s.queues.Wrote("ConfigMap", "term")
	t, err := term.Take(ctx, s.kube, metav1.NamespaceSystem, seen)
	if err != nil {
		return term.Term{}, err
	}
	if seen.Epoch != t.Epoch {
		if err := s.endTokens(ctx); err != nil {
			return term.Term{}, err
		}
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

// endTokens ends every token of a store that was restored, or may have been:
// the store does not know which of them were used up or revoked since. It comes
// before the term is written down, so that a power cut does not prevent it.
func (s *server) endTokens(ctx context.Context) error {
	tokens, err := s.client.EnrollmentTokens().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing tokens: %w", err)
	}
	for _, t := range tokens.Items {
		if err := s.endToken(ctx, t.Name); err != nil {
			return fmt.Errorf("ending token %s: %w", t.Name, err)
		}
	}
	return nil
}

func (s *server) endToken(ctx context.Context, name string) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		t, err := s.client.EnrollmentTokens().Get(ctx, name, metav1.GetOptions{})
		now := s.clock.Now()
		if err != nil || !now.Before(t.Expiry()) {
			return err
		}
		t.Spec.ExpiresAt = new(metav1.NewTime(now))
		s.queues.Wrote("EnrollmentToken", "restored")
		if _, err = s.client.EnrollmentTokens().Update(ctx, t, metav1.UpdateOptions{}); err == nil {
			s.Logger.Warn("a token is ended, since the API store was restored from a backup: create a new one", "token_id", name)
		}
		return err
	})
	return client.IgnoreNotFound(err)
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
