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

// A power cut may leave of a container what podman lists and cannot inspect. That says
// nothing about the others.
func TestAContainerThatCannotBeInspected(t *testing.T) {
	t.Parallel()
	const labels = `"Labels":{"fleet.nationtech.io/deployment":"shop_web","fleet.nationtech.io/service":%q,"fleet.nationtech.io/hash":"h"}`
	for name, tt := range map[string]struct {
		state, refusal string
		exited         int64
		torn           bool
	}{
		"its storage is damaged":                   {"exited", `getting graph driver info \"0123\": readlink /overlay: invalid argument`, -62135596800, true},
		"its storage is damaged, and it ended":     {"exited", `getting graph driver info \"0123\": readlink /overlay: invalid argument`, 1700000001, false},
		"its storage is damaged, and it runs":      {"running", `getting graph driver info \"0123\": readlink /overlay: invalid argument`, 0, false},
		"podman has another reason":                {"exited", "allocating lock: too many", 0, false},
		"its storage is damaged before it started": {"created", "layer not known", 0, true},
	} {
		client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/containers/json"):
				fmt.Fprintf(w, `[{"Id":"0123","Names":["shop_web_front"],"State":%q,"Pid":7,"ExitCode":3,"StartedAt":1700000000,"ExitedAt":%d,`+labels+`},{"Id":"4567","Names":["shop_web_back"],`+labels+`}]`, tt.state, tt.exited, "front", "back")
			case strings.HasSuffix(r.URL.Path, "/containers/0123/json"):
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprintf(w, `{"message":"%s"}`, tt.refusal)
			case strings.HasSuffix(r.URL.Path, "/containers/4567/json"):
				fmt.Fprintf(w, `{"Id":"4567","Name":"shop_web_back","Config":{`+labels+`},"State":{"Status":"exited"}}`, "back")
			}
		})
		got, err := client.List(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "web"})
		if err != nil || len(got) != 2 {
			t.Fatalf("%s: %+v, %v", name, got, err)
		}
		if got[0].Name != "shop_web_back" || got[0].Torn {
			t.Errorf("%s: the other is %+v", name, got[0])
		}
		want := map[string]any{"name": "shop_web_front", "service": "front", "hash": "h", "state": container.State(tt.state), "exit": 3, "torn": tt.torn, "odd": tt.torn}
		c := &got[1]
		if diff := cmp.Diff(want, map[string]any{"name": c.Name, "service": c.Service, "hash": c.Hash, "state": c.State, "exit": c.ExitCode, "torn": c.Torn, "odd": c.Odd()}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
