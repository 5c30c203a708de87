package podman_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The container that wakes the server of names leaves nothing: no volumes of its image, and not
// itself when its time is over.
func TestTheContainerOfNamesLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"in time": false, "too late": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var did []string
			client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
				switch path := r.URL.Path; {
				case r.Method == http.MethodDelete:
					did = append(did, "remove, volumes: "+r.URL.Query().Get("v"))
					fmt.Fprint(w, `[]`)
				case strings.HasSuffix(path, "/create"):
					var spec struct {
						Volumes string `json:"image_volume_mode"`
					}
					if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
						t.Error(err)
					}
					did = append(did, "create, volumes: "+spec.Volumes)
					w.WriteHeader(http.StatusCreated)
					fmt.Fprint(w, `{"Id":"0123"}`)
				case strings.HasSuffix(path, "/init"):
					did = append(did, "init")
					if late {
						cancel()
						<-r.Context().Done()
						return
					}
					w.WriteHeader(http.StatusNoContent)
				}
			})
			if err := client.RenewNames(ctx, "shop_web", "localhost/a:1"); (err != nil) != late {
				t.Errorf("error is %v", err)
			}
			if diff := cmp.Diff([]string{"remove, volumes: true", "create, volumes: ignore", "init", "remove, volumes: true"}, did); diff != "" {
				t.Error(diff)
			}
		})
	}
}
