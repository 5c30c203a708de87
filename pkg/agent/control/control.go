// Package control lets the operator of a device talk to the running agent:
// HTTP over a unix socket in the state directory, which only root and the
// agent's user can enter.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrNotRunning: no agent answers in the state directory.
var ErrNotRunning = errors.New("fleet-agent is not running")

const (
	socketFile  = "control.sock"
	pathStatus  = "/status"
	pathConfirm = "/confirm-epoch"
	pathRestart = "/restart"
	// maxReply bounds a reply in bytes: wire.MaxEntries reports of wire.MaxState.
	maxReply = 16 << 20
	// requestTimeout bounds a request; the agent answers from memory and disk.
	requestTimeout = 10 * time.Second
	// maxRequest bounds the body of a request, in bytes.
	maxRequest = 1 << 20
)

// Status is what a running agent says of itself.
type Status struct {
	Device       string    `json:"device"`
	AgentVersion string    `json:"agentVersion"`
	Started      time.Time `json:"started"`
	Connected    bool      `json:"connected"`
	// Server is the URL of the present connection.
	Server string `json:"server,omitempty"`
	// Standing says what is wrong between the device and its fleet as a whole, and
	// what to do; empty when nothing is.
	Standing string `json:"standing,omitempty"`
	// CertificateExpires is the end of the device's certificate, which is renewed
	// long before; RenewalError says why the last renewal failed.
	CertificateExpires time.Time `json:"certificateExpires,omitzero"`
	RenewalError       string    `json:"renewalError,omitempty"`
	// LastError says why there is no connection or no manifest.
	LastError string `json:"lastError,omitempty"`
	// LastSnapshot is when the server last answered a snapshot request.
	LastSnapshot time.Time    `json:"lastSnapshot,omitzero"`
	Manifest     wire.Version `json:"manifest"`
	// Held are the Deployments whose omission waits for confirm-epoch.
	Held        []wire.DeploymentRef   `json:"held,omitempty"`
	Conditions  []wire.Condition       `json:"conditions"`
	Deployments []wire.DeploymentState `json:"deployments"`
	Details
}

// Confirmation is the answer to a confirmed epoch.
type Confirmation struct {
	Epoch string `json:"epoch"`
	// Leaving are the Deployments that are removed because of it.
	Leaving []wire.DeploymentRef `json:"leaving"`
}

// Agent is what the socket gives access to.
type Agent interface {
	Status() Status
	ConfirmEpoch() (Confirmation, error)
	// Restart returns once the services were started again, or why not, or when ctx
	// ends.
	Restart(ctx context.Context, names []services.Name) error
}

// Serve answers until ctx ends. The caller holds the lock of the state
// directory: a socket that is there belongs to an agent that is gone.
func Serve(ctx context.Context, dir string, agent Agent, log *slog.Logger) error {
	path := filepath.Join(dir, socketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the socket of an earlier agent: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listening for fleet-agent status: %w", err)
	}
	server := &http.Server{Handler: handler(agent, log), ReadHeaderTimeout: requestTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering fleet-agent status: %w", err)
	}
	return nil
}

func handler(agent Agent, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) { reply(w, agent.Status(), log) })
	mux.HandleFunc("POST "+pathConfirm, func(w http.ResponseWriter, _ *http.Request) {
		c, err := agent.ConfirmEpoch()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, c, log)
	})
	mux.HandleFunc("POST "+pathRestart, func(w http.ResponseWriter, r *http.Request) {
		var names []services.Name
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&names); err != nil {
			http.Error(w, "the request names no services", http.StatusBadRequest)
			return
		}
		if err := agent.Restart(r.Context(), names); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		reply(w, struct{}{}, log)
	})
	return mux
}

func reply(w http.ResponseWriter, v any, log *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Debug("the asker went away", "error", err)
	}
}

// ReadStatus asks the agent of a state directory. It returns ErrNotRunning
// when there is none.
func ReadStatus(ctx context.Context, dir string) (Status, error) {
	var s Status
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := ask(ctx, dir, http.MethodGet, pathStatus, nil, &s)
	return s, err
}

// ConfirmEpoch confirms the present epoch with the agent of a state directory.
// It returns ErrNotRunning when there is none.
func ConfirmEpoch(ctx context.Context, dir string) (Confirmation, error) {
	var c Confirmation
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := ask(ctx, dir, http.MethodPost, pathConfirm, nil, &c)
	return c, err
}

// Restart has the agent of a state directory restart services, and returns once they were
// started again, which may take as long as they have to end. It returns ErrNotRunning when
// there is no agent.
func Restart(ctx context.Context, dir string, names []services.Name) error {
	body, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return ask(ctx, dir, http.MethodPost, pathRestart, body, &struct{}{})
}

func ask(ctx context.Context, dir, method, path string, body []byte, into any) error {
	socket := filepath.Join(dir, socketFile)
	if info, err := os.Lstat(socket); err == nil && info.Mode().Type() == os.ModeSymlink {
		return fmt.Errorf("asking the agent: %s is a link, which nobody follows", socket)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return unreachable(socket, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	if res.StatusCode == http.StatusNotFound {
		return errors.New("asking the agent: the one that runs is of an earlier version: systemctl restart fleet-agent")
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the agent: %s", bytes.TrimSpace(data))
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	return nil
}

func unreachable(socket string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("asking the agent: %s may be used by root and the agent's user only", socket)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("%w: nothing answers at %s", ErrNotRunning, socket)
	}
	return fmt.Errorf("asking the agent: %w", err)
}
