package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

// recorded is a storage that remembers how it was asked, and answers with err.
type recorded struct {
	storage.Interface

	watched storage.ListOptions
	writes  int
	err     error
}

func (r *recorded) Watch(_ context.Context, _ string, o storage.ListOptions) (watch.Interface, error) {
	r.watched = o
	return watch.NewEmptyWatch(), r.err
}

func (r *recorded) Create(context.Context, string, runtime.Object, runtime.Object, uint64) error {
	r.writes++
	return r.err
}

func (r *recorded) GuaranteedUpdate(context.Context, string, runtime.Object, bool, *storage.Preconditions, storage.UpdateFunc, runtime.Object) error {
	r.writes++
	return r.err
}

func (r *recorded) Delete(context.Context, string, runtime.Object, *storage.Preconditions, storage.ValidateObjectFunc, runtime.Object, storage.DeleteOptions) error {
	r.writes++
	return r.err
}

func TestWatchesGetBookmarks(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{true, false} {
		r := &recorded{}
		s := apiserver.Fitted(r, func() error { return nil })
		w, err := s.Watch(t.Context(), "/", storage.ListOptions{Predicate: storage.SelectionPredicate{AllowWatchBookmarks: asked}})
		if err != nil || r.watched.ProgressNotify != asked {
			t.Errorf("bookmarks are %v, want %v: %v", r.watched.ProgressNotify, asked, err)
		}
		w.Stop()
	}
}

func TestAFullDiskIsSaid(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("%w: 0 of 64 MiB are free", datastore.ErrFull)
	for name, tc := range map[string]struct {
		known, said error

		want string
	}{
		"room":                      {},
		"no room":                   {known: full, want: "0 of 64 MiB"},
		"the storage has no room":   {said: fmt.Errorf("rpc error: code = ResourceExhausted desc = %w", full), want: "0 of 64 MiB"},
		"another error is not that": {said: errors.New("conflict")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &recorded{err: tc.said}
			s := apiserver.Fitted(r, func() error { return tc.known })
			for _, err := range []error{
				s.Create(t.Context(), "/", nil, nil, 0),
				s.GuaranteedUpdate(t.Context(), "/", nil, false, nil, nil, nil),
			} {
				if (tc.want != "") != isInsufficient(err) || tc.want != "" && (!strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "rpc error")) {
					t.Errorf("error is %v", err)
				}
				if tc.want == "" && !errors.Is(err, tc.said) {
					t.Errorf("error is %v, want %v", err, tc.said)
				}
			}
			if tc.known != nil && r.writes != 0 {
				t.Errorf("%d writes reach a full disk", r.writes)
			}
			if err := s.Delete(t.Context(), "/", nil, nil, nil, nil, storage.DeleteOptions{}); tc.known != nil && err != nil {
				t.Errorf("a deletion fails: %v", err)
			}
		})
	}
}

func isInsufficient(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code == http.StatusInsufficientStorage
}
