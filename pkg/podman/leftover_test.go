package podman_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A name that podman's storage has and podman itself does not know is cleared, as after a
// power cut between the two. One that a container has is left alone.
func TestALeftoverThatHasTheName(t *testing.T) {
	t.Parallel()
	spec := &container.Spec{Ref: wire.DeploymentRef{Namespace: "shop", Name: "web"}, Service: "front", Image: "localhost/a:1"}
	for name, tt := range map[string]struct {
		known bool
		does  []string
		fails bool
	}{
		"leftover":          {false, []string{"create", "exists", "remove", "create"}, false},
		"another container": {true, []string{"create", "exists"}, true},
	} {
		var did []string
		cleared := false
		client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/containers/shop_web_front"):
				did, cleared = append(did, "remove"), r.URL.Query().Get("force") == "true"
				fmt.Fprint(w, `[{"Id":"shop_web_front"}]`)
			case strings.HasSuffix(r.URL.Path, "/exists"):
				did = append(did, "exists")
				if !tt.known {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				w.WriteHeader(http.StatusNoContent)
			case !cleared:
				did = append(did, "create")
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprint(w, `{"message":"creating container storage: the container name \"shop_web_front\" is already in use by 0123. You have to remove that container to be able to reuse that name: that name is already in use"}`)
			default:
				did = append(did, "create")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{"Id":"0123"}`)
			}
		})
		id, err := client.Create(t.Context(), spec)
		if (err != nil) != tt.fails || (id == "") != tt.fails {
			t.Errorf("%s: id %q, %v", name, id, err)
		}
		if diff := cmp.Diff(tt.does, did); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
