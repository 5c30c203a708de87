package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// agentStub answers at the control socket. What a restart does is package agent's.
type agentStub struct {
	mu        sync.Mutex // guards what follows
	status    control.Status
	restarted []services.Name
	failure   error
	// later are the statuses after a restart, one for each question; the last one stays.
	later []control.Status
}

func (a *agentStub) Status() control.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.later) > 0 && len(a.restarted) > 0 {
		a.status, a.later = a.later[0], a.later[1:]
	}
	return a.status
}

func (a *agentStub) ConfirmEpoch() (control.Confirmation, error) { return control.Confirmation{}, nil }

func (a *agentStub) Restart(_ context.Context, names []services.Name) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.restarted = append(a.restarted, names...)
	return a.failure
}

// answer serves a stub for a host's commands until the test ends.
func (h *host) answer(a *agentStub) {
	h.t.Helper()
	if err := os.MkdirAll(h.state, 0o700); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Serve(ctx, h.state, a, slog.New(slog.DiscardHandler)) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	wait.For(h.t, "the control socket", time.Minute, time.Millisecond, func() error {
		_, err := control.ReadStatus(ctx, h.state)
		return err
	})
}

// deployment is the state of one with a service of each given state, such as "web:running",
// and phase, such as "web:running:Pending", which an earlier agent does not tell.
func deployment(name string, phase wire.Phase, failure string, containers ...string) wire.DeploymentState {
	s := wire.DeploymentState{DeploymentRef: wire.DeploymentRef{Namespace: "shop", Name: name}, Phase: phase, Error: failure}
	for _, c := range containers {
		service, state, _ := strings.Cut(c, ":")
		state, of, _ := strings.Cut(state, ":")
		s.Containers = append(s.Containers, wire.ContainerState{Service: service, State: state, Phase: wire.Phase(of)})
	}
	return s
}

func TestRestart(t *testing.T) {
	t.Parallel()
	running := deployment("web", wire.PhaseRunning, "", "front:running", "db:running")
	pending := deployment("web", wire.PhasePending, "", "front:running", "db:running")
	other := deployment("web", wire.PhaseFailed, "service db: exited with code 1", "front:running", "db:exited")
	probed := deployment("web", wire.PhaseFailed, "service db: its liveness probe failed: no", "front:running:Pending", "db:running:Failed")
	ready := deployment("web", wire.PhaseFailed, "service db: its liveness probe failed: no", "front:running:Running", "db:running:Failed")
	api := deployment("api", wire.PhaseRunning, "", "one:running")
	for name, tt := range map[string]struct {
		args      string
		later     []wire.DeploymentState // of web
		failure   error
		restarted []string
		want      string // of the output or the error
	}{
		"one":                      {"front", []wire.DeploymentState{pending, running}, nil, []string{"shop/web/front"}, "service shop/web/front runs again, after "},
		"all":                      {"--all", []wire.DeploymentState{pending, running}, nil, []string{"shop/api/one", "shop/web/front", "shop/web/db"}, "service shop/web/db runs again, after "},
		"it fails":                 {"db", []wire.DeploymentState{pending, other}, nil, []string{"shop/web/db"}, "service shop/web/db does not run: exited with code 1"},
		"another fails":            {"front", []wire.DeploymentState{pending, other}, nil, []string{"shop/web/front"}, "service shop/web/front runs again, after "},
		"it is ready by its probe": {"front", []wire.DeploymentState{probed, ready}, nil, []string{"shop/web/front"}, "service shop/web/front runs again, after "},
		"its probe fails":          {"db", []wire.DeploymentState{probed}, nil, []string{"shop/web/db"}, "service shop/web/db does not run: its liveness probe failed: no"},
		"it goes":                  {"front", []wire.DeploymentState{pending, {}}, nil, []string{"shop/web/front"}, "Deployment shop/web is not on this device any more"},
		"it takes too long":        {"front --timeout 700ms", []wire.DeploymentState{pending}, nil, []string{"shop/web/front"}, "not all services are ready after 700ms: fleet-agent status says why"},
		"the agent says why not":   {"front", nil, errors.New("port 80 is in use"), []string{"shop/web/front"}, "asking the agent: port 80 is in use"},
		"there is none":            {"none", nil, nil, nil, `"none": no such service on this device; it has shop/api/one, shop/web/db, shop/web/front`},
		"neither one nor all":      {"", nil, nil, nil, "name one service, or give --all: see fleet-agent status"},
		"one and all":              {"front --all", nil, nil, nil, "name one service, or give --all: see fleet-agent status"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			stub := &agentStub{status: control.Status{Deployments: []wire.DeploymentState{api, running}}, failure: tt.failure}
			h.answer(stub)
			for _, d := range tt.later {
				stub.later = append(stub.later, control.Status{Deployments: []wire.DeploymentState{api, d}})
			}
			out, err := h.run("", append([]string{"restart"}, strings.Fields(tt.args)...)...)
			if err != nil {
				out += err.Error()
			}
			if !strings.Contains(out, tt.want) {
				t.Errorf("got %q", out)
			}
			var got []string
			for _, n := range stub.restarted {
				got = append(got, n.String())
			}
			if !slices.Equal(got, tt.restarted) {
				t.Errorf("restarted %v, want %v", got, tt.restarted)
			}
		})
	}
	if _, err := newHost(t).run("", "restart", "front"); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("without an agent: %v", err)
	}
}
