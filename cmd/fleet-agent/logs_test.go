package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// engine answers as podman does, for containers that do not run anywhere: what the
// commands make of answers. The machines of test/e2e have a podman.
type engine struct {
	socket string
	mux    *http.ServeMux

	mu         sync.Mutex // guards what follows
	containers map[string]engineContainer
}

type engineContainer struct{ deployment, service, state string }

// newEngine starts an engine with the containers of shop/web and lab/web.
func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{
		socket: filepath.Join(t.TempDir(), "podman.sock"), mux: http.NewServeMux(),
		containers: map[string]engineContainer{
			"a1": {"shop_web", "front", "running"}, "a2": {"shop_web", "db", "running"}, "b1": {"lab_web", "db", "exited"},
		},
	}
	e.mux.HandleFunc("GET /v5.6.2/libpod/containers/json", e.list)
	e.mux.HandleFunc("GET /v5.6.2/libpod/containers/{id}/json", e.inspect)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: e.mux, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed below
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return e
}

func (e *engine) list(w http.ResponseWriter, _ *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for id := range e.containers {
		ids = append(ids, fmt.Sprintf(`{"Id":%q}`, id))
	}
	fmt.Fprintf(w, "[%s]", strings.Join(ids, ","))
}

func (e *engine) inspect(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := r.PathValue("id")
	c := e.containers[id]
	fmt.Fprintf(w, `{"Id":%q,"Name":%q,"Config":{"Labels":{"fleet.nationtech.io/deployment":%q,"fleet.nationtech.io/service":%q}},
		"State":{"Status":%q,"StartedAt":"2026-11-29T13:00:00Z"},"HostConfig":{"Cgroups":"disabled"}}`, id, c.deployment+"_"+c.service, c.deployment, c.service, c.state)
}

// says makes the output of every container these pieces: "1text" and "2text" for the two
// streams.
func (e *engine) says(pieces ...string) {
	e.mux.HandleFunc("GET /v5.6.2/libpod/containers/{id}/logs", func(w http.ResponseWriter, r *http.Request) {
		for _, p := range pieces {
			text := "2026-11-29T13:00:01Z " + p[1:]
			_, _ = w.Write(append([]byte{p[0] - '0', 0, 0, 0, 0, 0, byte(len(text) >> 8), byte(len(text))}, text...))
		}
		if r.URL.Query().Get("follow") == "true" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
}

// use makes a host's commands ask the engine.
func (h *host) use(e *engine) {
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\npodman:\n  socket: "+e.socket+"\n")
}

// runBoth is host.run with the standard error.
func (h *host) runBoth(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = run(h.t.Context(), append([]string{"--config", h.config}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), err
}

func TestLogs(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	e.says("1ready\n", "2\x1b[31mbad\x1b[0m\n", "1done\n")
	out, errs, err := h.runBoth("logs", "front", "--tail", "5", "--since", "1h")
	if err != nil || out != "ready\ndone\n" || errs != "\x1b[31mbad\x1b[0m\n" {
		t.Errorf("got %q and %q: %v", out, errs, err)
	}
	for service, want := range map[string]string{
		"db":   `"db": more than one service has this name: choose one of lab/web/db, shop/web/db`,
		"none": `"none": no such service on this device; it has lab/web/db, shop/web/db, shop/web/front`,
	} {
		if _, err := h.run("", "logs", service); err == nil || err.Error() != want {
			t.Errorf("%s: %v", service, err)
		}
	}
	if _, err := h.run("", "logs"); err == nil || !strings.Contains(err.Error(), "write fleet-agent logs SERVICE") {
		t.Errorf("without a service: %v", err)
	}
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\npodman:\n  socket: /nonexistent/podman.sock\n")
	if _, err := h.run("", "logs", "front"); err == nil || !strings.Contains(err.Error(), "doctor") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without podman: %v", err)
	}
}

// What a container writes steers no terminal.
func TestLogsOnATerminal(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	e.says("1begin"+hostile+"\n", "2begin"+hostile+"\n")
	seen := onTerminal(t, func(program io.ReadWriter) error {
		return run(t.Context(), []string{"--config", h.config, "logs", "front"}, strings.NewReader(""), program, program)
	})
	if strings.ContainsAny(seen, "\x1b\a\x7f\u202e") || strings.Count(seen, `\u001b]0;x`) != 2 {
		t.Errorf("got %q", seen)
	}
}

// To interrupt what follows an output, or to close its pipe, is no error.
func TestFollowedLogsEndWell(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	e.says("1ready\n")
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	ended := make(chan error, 1)
	follow := func() {
		ended <- run(ctx, []string{"--config", h.config, "logs", "-f", "front"}, strings.NewReader(""), write, io.Discard)
	}
	go follow()
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(read, line); err != nil || string(line) != "ready\n" {
		t.Errorf("read %q: %v", line, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("interrupted: %v", err)
	}
	ctx = t.Context()
	if err := read.Close(); err != nil {
		t.Fatal(err)
	}
	go follow()
	if err := <-ended; err != nil {
		t.Errorf("closed: %v", err)
	}
	if err := wellEnded(t.Context(), io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("another error becomes %v", err)
	}
}

// What was kept of crashes can be read without the agent and without podman.
func TestPreviousLogs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\npodman:\n  socket: /nonexistent/podman.sock\n")
	if _, err := h.run("", "logs", "-p", "front"); !errors.Is(err, crashes.ErrNone) || strings.Contains(err.Error(), "\n") {
		t.Errorf("without a crash: %v", err)
	}
	kept := crashes.New(filepath.Join(h.state, "crashes"), nil, slog.New(slog.DiscardHandler))
	for n, service := range []string{"front", "front", "db"} {
		ref := wire.DeploymentRef{Namespace: "shop", Name: "web"}
		kept.Keep(crashes.Crash{
			Name: services.Name{DeploymentRef: ref, Service: service}, ExitCode: n, Seen: time.Now(), Output: fmt.Appendf(nil, "first\x1b[0m\nlast %d\n", n),
		})
	}
	for args, want := range map[string]string{
		"--previous front":        "\n\nfirst\x1b[0m\nlast 1\n",
		"--previous=2 front":      "\n\nfirst\x1b[0m\nlast 0\n",
		"-p --tail 1 shop/web/db": "\n\nlast 2\n",
		"--previous=3 front":      "2 crashes of service shop/web/front are kept: --previous takes 1 to 2",
		"--previous none":         `no crash is kept of "none"; of others there is one: shop/web/db, shop/web/front`,
		"--previous -f front":     "--previous shows what was: it goes with --tail, and not with --follow or --since",
		"--previous=-1 front":     "--previous=-1: the last crash is 1",
		"--since=-1m front":       "--since=-1m0s: it is a time before now, such as 10m",
		"--previous=x front":      `--previous: "x" is not a whole number`,
	} {
		out, err := h.run("", append([]string{"logs"}, strings.Fields(args)...)...)
		if err != nil {
			out = err.Error()
		}
		if !strings.HasSuffix(out, want) || err == nil && !strings.HasPrefix(out, "Service:") {
			t.Errorf("%s: %q", args, out)
		}
	}
}
