package interpret_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/interpret"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ref = wire.DeploymentRef{Namespace: "shop", Name: "web"}

func interpretBody(body string) (*plan.Workload, error) {
	s, err := wire.Decode[wire.Score]([]byte(body), wire.MaxScoreSize)
	if err != nil {
		return nil, err
	}
	return interpret.Default()[s.Type](ref, s.Data)
}

func TestPodmanV0(t *testing.T) {
	t.Parallel()
	body := `{"type":"PodmanV0","data":{"services":[
		{"name":"front","image":"localhost/front:1","command":["/run"],"args":["-v"],"env":[{"name":"A","value":"b"}],
		 "ports":[{"hostPort":8080,"containerPort":80},{"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"127.0.0.1"}],
		 "volumes":[{"name":"data","mountPath":"/data"},{"hostPath":"/srv/www","mountPath":"/www","readOnly":true}],"restart":"OnFailure","resources":{"limits":{"memory":"64Mi"}}},
		{"name":"back","image":"localhost/back:1","volumes":[{"name":"data","mountPath":"/data"}]},
		{"name":"once","image":"localhost/once:1","restart":"Never"}]}}`
	network := container.Network{Mode: container.NetworkBridge, Name: "shop_web", Owner: "shop_web"}
	want := &plan.Workload{
		Ref: ref, MinReady: plan.DefaultMinReady, Networks: []container.Network{network},
		Services: []container.Spec{
			{
				Ref: ref, Service: "front", Image: "localhost/front:1", Command: []string{"/run"}, Args: []string{"-v"}, Env: map[string]string{"A": "b"},
				Ports: []container.Port{{Host: 8080, Inside: 80, Protocol: container.TCP}, {Host: 53, Inside: 53, Protocol: container.UDP, HostIP: "127.0.0.1"}},
				Mounts: []container.Mount{
					{Volume: "shop_web_data", Path: "/data"},
					{HostPath: "/srv/www", Path: "/www", ReadOnly: true},
				},
				Restart: container.RestartOnFailure, Grace: score.DefaultGrace, Memory: 64 << 20, Network: network,
			},
			{Ref: ref, Service: "back", Image: "localhost/back:1", Mounts: []container.Mount{{Volume: "shop_web_data", Path: "/data"}}, Restart: container.RestartAlways, Grace: score.DefaultGrace, Network: network},
			{Ref: ref, Service: "once", Image: "localhost/once:1", Restart: container.RestartNever, Grace: score.DefaultGrace, Network: network},
		},
		Volumes: []string{"shop_web_data"},
	}
	got, err := interpretBody(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(container.Spec{}, "Hash"), cmpopts.IgnoreFields(plan.Workload{}, "Before")); diff != "" {
		t.Error(diff)
	}
	if got.Services[0].Hash == got.Services[1].Hash || !wire.ValidHash(got.Services[0].Hash) {
		t.Errorf("hashes %q and %q", got.Services[0].Hash, got.Services[1].Hash)
	}
}

// How long a service has to run changes no container.
func TestMinReady(t *testing.T) {
	t.Parallel()
	body := func(rest string) string {
		return `{"type":"PodmanV0","data":{"services":[{"name":"a","image":"localhost/a"}]` + rest + `}}`
	}
	usual, err := interpretBody(body(""))
	none, noneErr := interpretBody(body(`,"minReadySeconds":0`))
	long, longErr := interpretBody(body(`,"minReadySeconds":60`))
	if err := errors.Join(err, noneErr, longErr); err != nil {
		t.Fatal(err)
	}
	if usual.MinReady != plan.DefaultMinReady || none.MinReady != 0 || long.MinReady != time.Minute {
		t.Errorf("%v, %v and %v", usual.MinReady, none.MinReady, long.MinReady)
	}
	if usual.Services[0].Hash != long.Services[0].Hash {
		t.Error("the hash of the service changed")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		body string
		want error
		text string
	}{
		"unknown field": {`{"type":"PodmanV0","data":{"services":[{"name":"a","image":"localhost/a","imgae":""}]}}`, score.ErrInvalid, "imgae"},
		"nothing":       {`{"type":"PodmanV0"}`, score.ErrInvalid, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := interpretBody(tt.body)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v", err)
			}
		})
	}
}
