package podman_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A name that podman's storage has and podman itself gives to nobody is freed, as after a
// power cut between the two. One that a container has is left alone.
func TestANameThatOnlyTheStorageHas(t *testing.T) {
	t.Parallel()
	spec := &container.Spec{Ref: wire.DeploymentRef{Namespace: "shop", Name: "web"}, Service: "front", Image: "localhost/a:1"}
	for name, tt := range map[string]struct {
		known string // the name of the container that has it, by which podman knows that
		does  []string
		fails bool
	}{
		"a container that podman does not know": {"", []string{"create", "inspect", "remove", "create"}, false},
		"a container that was renamed":          {"shop_web_back", []string{"create", "inspect", "rename to shop_web_back", "create"}, false},
		"a container of that name":              {"shop_web_front", []string{"create", "inspect"}, true},
	} {
		var did []string
		freed := false
		client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/containers/shop_web_front"):
				did, freed = append(did, "remove"), r.URL.Query().Get("force") == "true"
				fmt.Fprint(w, `[{"Id":"shop_web_front"}]`)
			case strings.HasSuffix(r.URL.Path, "/containers/0123/rename"):
				did, freed = append(did, "rename to "+r.URL.Query().Get("name")), true
				w.WriteHeader(http.StatusNoContent)
			case strings.HasSuffix(r.URL.Path, "/containers/0123/json"):
				did = append(did, "inspect")
				if tt.known == "" {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				fmt.Fprintf(w, `{"Id":"0123","Name":%q}`, tt.known)
			case !freed:
				did = append(did, "create")
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprint(w, `{"message":"creating container storage: the container name \"shop_web_front\" is already in use by 0123. You have to remove that container to be able to reuse that name: that name is already in use"}`)
			default:
				did = append(did, "create")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{"Id":"4567"}`)
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

// A secret that podman lists and cannot read, as after a power cut between its two files, is
// replaced. One that it can read is left alone, and so is one that it cannot look for.
func TestASecretThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		text   string
		does   []string
	}{
		"whole":              {http.StatusOK, "", nil},
		"there is none":      {http.StatusNotFound, "no secret with name or id \"shop_web_x\": no such secret", []string{"replace"}},
		"content is missing": {http.StatusNotFound, "0123: no such secret", []string{"replace"}},
		"content is damaged": {http.StatusInternalServerError, "inspecting secret shop_web_x: unexpected end of JSON input", []string{"replace"}},
	} {
		var did []string
		client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPost && r.URL.Query().Get("replace") == "true":
				did = append(did, "replace")
				fmt.Fprint(w, `{"ID":"4567"}`)
			case r.Method == http.MethodGet && r.URL.Query().Get("showsecret") == "true":
				w.WriteHeader(tt.status)
				fmt.Fprintf(w, `{"message":%q}`, tt.text)
			default:
				did = append(did, r.Method+" "+r.URL.String())
				w.WriteHeader(http.StatusNotFound)
			}
		})
		if err := client.EnsureSecret(t.Context(), "shop_web_x", []byte("content")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.does, did); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	silent := impostor(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 5<<20)) })
	if err := silent.EnsureSecret(t.Context(), "shop_web_x", []byte("content")); !errors.Is(err, container.ErrUnavailable) {
		t.Errorf("an answer that is none: %v", err)
	}
}
