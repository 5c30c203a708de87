package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"cuelabs.dev/go/oci/ociregistry"

	"fleet.nationtech.io/fleet/pkg/registry"
	"fleet.nationtech.io/fleet/pkg/registry/cache"
)

// An image for which there is no room is refused with numbers, and a device that pulls one
// is told that it is room that lacks.
func TestNoRoomForImages(t *testing.T) {
	t.Parallel()
	err := registry.Fits(t.TempDir(), 1<<60)
	if !errors.Is(err, registry.ErrSpace) || !strings.Contains(err.Error(), "it needs ") || !strings.Contains(err.Error(), " MiB are free") {
		t.Errorf("an exbibyte: %v", err)
	}
	if err := registry.Fits(t.TempDir(), 1); err != nil {
		t.Errorf("a byte: %v", err)
	}
	unknown := errors.New("unknown")
	for _, tc := range []struct {
		err  error
		want int // 0 for unknown
	}{{cache.ErrSpace, http.StatusInsufficientStorage}, {cache.ErrUnavailable, http.StatusBadGateway}, {cache.ErrRefused, http.StatusBadGateway}, {cache.ErrUnknown, 0}} {
		got := registry.Answer(fmt.Errorf("%w: 3 MiB are free", tc.err), unknown)
		answer, is := errors.AsType[ociregistry.HTTPError](got)
		switch {
		case tc.want == 0 && !errors.Is(got, unknown):
			t.Errorf("%v becomes %v", tc.err, got)
		case tc.want != 0 && (!is || answer.StatusCode() != tc.want || !strings.Contains(got.Error(), "3 MiB are free")):
			t.Errorf("%v becomes %v, want status %d", tc.err, got, tc.want)
		}
	}
}
