package interpreter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/unixserve"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// maxConnections bounds those that are served at one time.
	maxConnections = 16
	// exchangeTimeout bounds how long a request and an answer are under way.
	exchangeTimeout = 10 * time.Second
)

// Wanted is what a score asks for.
type Wanted struct {
	Deployment wire.DeploymentRef
	Type       string
	Data       json.RawMessage
	// Objects and Mark are those of the Request.
	Objects map[string]map[string][]byte
	Mark    string
}

// Interpreter runs scores. The Server calls its methods one after the other, but for
// Parse. Their errors are shown to the operator; one that is an *Error keeps its code.
type Interpreter interface {
	// Parse returns what a score needs.
	Parse(scoreType string, data json.RawMessage) (needs []string, err error)
	Observe(ctx context.Context, ref wire.DeploymentRef) (Observation, error)
	// Plan changes nothing.
	Plan(ctx context.Context, w *Wanted) (Plan, error)
	// Apply may be cut off anywhere, by a power cut, too, and is called again.
	Apply(ctx context.Context, w *Wanted) error
	// Remove, Halt and Wipe may be called again when there is nothing to do any more.
	Remove(ctx context.Context, ref wire.DeploymentRef, retention wire.VolumeRetention) error
	Halt(ctx context.Context, ref wire.DeploymentRef) error
	List(ctx context.Context) ([]wire.DeploymentRef, error)
	Wipe(ctx context.Context) error
}

// Server serves an Interpreter.
type Server struct {
	Interpreter Interpreter
	// Admit reports whether a connection may ask; nil for any. See PeerIs.
	Admit func(*net.UnixConn) error
	Log   *slog.Logger

	mu sync.Mutex // held while the interpreter works
}

// Serve answers until ctx ends. It closes no listener.
func (s *Server) Serve(ctx context.Context, listener *net.UnixListener) error {
	return unixserve.Serve(ctx, listener, maxConnections, func(conn *net.UnixConn) error { return s.serve(ctx, conn) }, func(err error) {
		s.Log.Info("a request was not answered", "error", err)
	})
}

func (s *Server) serve(ctx context.Context, conn *net.UnixConn) error {
	if s.Admit != nil {
		if err := s.Admit(conn); err != nil {
			return err
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(exchangeTimeout))
	answer, err := s.respond(ctx, conn)
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(exchangeTimeout))
	_, err = conn.Write(answer)
	return err
}

// Answer reads one request and writes its answer, for a program that systemd starts for
// each connection: of a socket with Accept=yes, and a service with StandardInput=socket.
func (s *Server) Answer(ctx context.Context, in io.Reader, out io.Writer) error {
	answer, err := s.respond(ctx, in)
	if err != nil {
		return err
	}
	_, err = out.Write(answer)
	return err
}

var errTooLong = fmt.Errorf("a request of more than %d bytes", MaxRequest)

func (s *Server) respond(ctx context.Context, in io.Reader) (line []byte, err error) {
	bounded := &io.LimitedReader{R: in, N: MaxRequest + 1}
	text, err := bufio.NewReader(bounded).ReadBytes('\n')
	if bounded.N <= 0 {
		return nil, errTooLong
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(text) == 0) {
		return nil, fmt.Errorf("reading a request: %w", err)
	}
	var r Request
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("reading a request: %w", err)
	}
	answer, err := s.do(ctx, &r)
	if err != nil {
		answer = Answer{Error: asError(err)}
	}
	line, err = json.Marshal(answer)
	return append(line, '\n'), err
}

func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{CodeFailed, err.Error()}
}

func (s *Server) do(ctx context.Context, r *Request) (a Answer, err error) {
	if r.Version != Version {
		return a, &Error{CodeVersion, fmt.Sprintf("version %d of the protocol is unknown: this interpreter speaks version %d", r.Version, Version)}
	}
	if r.Method == MethodParse {
		if a.Needs, err = s.Interpreter.Parse(r.Type, r.Data); err != nil {
			return a, &Error{CodeInvalid, err.Error()}
		}
		return a, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &Wanted{r.Deployment, r.Type, r.Data, r.Objects, r.Mark}
	switch r.Method {
	case MethodObserve:
		o, err := s.Interpreter.Observe(ctx, r.Deployment)
		return Answer{Observation: &o}, err
	case MethodPlan:
		p, err := s.Interpreter.Plan(ctx, w)
		return Answer{Plan: &p}, err
	case MethodApply:
		return a, s.Interpreter.Apply(ctx, w)
	case MethodRemove:
		return a, s.Interpreter.Remove(ctx, r.Deployment, r.Retention)
	case MethodHalt:
		return a, s.Interpreter.Halt(ctx, r.Deployment)
	case MethodList:
		all, err := s.Interpreter.List(ctx)
		return Answer{Inventory: &Inventory{all}}, err
	case MethodWipe:
		return a, s.Interpreter.Wipe(ctx)
	}
	return a, fmt.Errorf("method %.32q is unknown", r.Method)
}
