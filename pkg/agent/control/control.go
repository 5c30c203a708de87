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

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrNotRunning: no agent answers in the state directory.
var ErrNotRunning = errors.New("fleet-agent is not running")

const (
	socketFile  = "control.sock"
	pathStatus  = "/status"
	pathConfirm = "/confirm-epoch"
	// maxReply bounds a reply in bytes: wire.MaxEntries reports of wire.MaxState.
	maxReply = 16 << 20
	// requestTimeout bounds a request; the agent answers from memory and disk.
	requestTimeout = 10 * time.Second
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
	err := ask(ctx, dir, http.MethodGet, pathStatus, &s)
	return s, err
}

// ConfirmEpoch confirms the present epoch with the agent of a state directory.
// It returns ErrNotRunning when there is none.
func ConfirmEpoch(ctx context.Context, dir string) (Confirmation, error) {
	var c Confirmation
	err := ask(ctx, dir, http.MethodPost, pathConfirm, &c)
	return c, err
}

func ask(ctx context.Context, dir, method, path string, into any) error {
	socket := filepath.Join(dir, socketFile)
	if info, err := os.Lstat(socket); err == nil && info.Mode().Type() == os.ModeSymlink {
		return fmt.Errorf("asking the agent: %s is a link, which nobody follows", socket)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: requestTimeout, Transport: transport}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
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
