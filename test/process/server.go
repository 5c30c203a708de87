// Package process runs the binaries as shipped, for tests and benchmarks.
package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
)

// Command builds a command; exec.CommandContext is one, and so is the method
// of a network namespace.
type Command func(ctx context.Context, name string, args ...string) *exec.Cmd

// Config says how to run a server.
type Config struct {
	// Binary is fleet-server; DataDir its data directory.
	Binary, DataDir string
	// Host is the address to listen on; 127.0.0.1 when empty.
	Host string
	// Command builds the server's process; exec.CommandContext when nil.
	Command Command
}

// Server is a running fleet-server.
type Server struct {
	// APIURL, NATSURL and EnrollURL are where it is reached.
	APIURL, NATSURL, EnrollURL string
	// ReadyAfter is the time from the start of the process until it was ready.
	ReadyAfter time.Duration

	config Config
	cmd    *exec.Cmd
	ended  chan struct{}
	log    *tail
}

// StartServer starts a server on free ports and returns when it is ready.
func StartServer(ctx context.Context, c Config) (*Server, error) {
	return start(ctx, c, &Server{})
}

// Restart starts a server again, on its ports, after Stop or Kill.
func (s *Server) Restart(ctx context.Context) (*Server, error) { return start(ctx, s.config, s) }

func start(ctx context.Context, c Config, before *Server) (*Server, error) {
	if c.Host == "" {
		c.Host = "127.0.0.1"
	}
	if c.Command == nil {
		c.Command = exec.CommandContext
	}
	s := &Server{config: c, ended: make(chan struct{}), log: &tail{}}
	// The server outlives the context of its start.
	s.cmd = c.Command(context.WithoutCancel(ctx), c.Binary, "run", "--data-dir", c.DataDir, "--log-level", "info",
		"--api-listen", c.Host+portOf(before.APIURL), "--nats-listen", c.Host+portOf(before.NATSURL), "--enroll-listen", c.Host+portOf(before.EnrollURL))
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stderr = s.log
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting fleet-server: %w", err)
	}
	announced := make(chan error, 1)
	go func() {
		announced <- s.readAnnouncement(stdout)
		_, _ = io.Copy(io.Discard, stdout) // whatever it prints later
		_ = s.cmd.Wait()                   // how it ended is in its log
		close(s.ended)
	}()
	select {
	case err = <-announced:
		s.ReadyAfter = time.Since(begin)
	case <-time.After(readyTimeout):
		err = errors.New("it is not ready")
	}
	if err != nil {
		s.Kill()
		return nil, fmt.Errorf("starting fleet-server: %w: %s", err, s.Log())
	}
	return s, nil
}

// readAnnouncement takes the addresses from what a ready server prints.
func (s *Server) readAnnouncement(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 2 {
			continue
		}
		switch fields[0] {
		case "API":
			s.APIURL = fields[1]
		case "devices":
			s.NATSURL = fields[1]
		case "enroll":
			s.EnrollURL = fields[1]
			return nil
		}
	}
	return errors.New("it ended before it was ready")
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Log is the end of what the server logged.
func (s *Server) Log() string { return s.log.String() }

// Kubeconfig is the path of the administrator's kubeconfig.
func (s *Server) Kubeconfig() string { return filepath.Join(s.config.DataDir, "admin.kubeconfig") }

// Stop ends the server in the ordinary way and waits for it.
func (s *Server) Stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // ended already: fine
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		s.Kill()
		return fmt.Errorf("fleet-server did not stop within %s: %s", stopTimeout, s.Log())
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("fleet-server ended with status %d: %s", code, s.Log())
	}
	return nil
}

// Kill ends the server with SIGKILL and waits for it.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // ended already: fine
	<-s.ended
}

// Run runs a subcommand of fleet-server on the server's data directory and
// returns its standard output.
func (s *Server) Run(ctx context.Context, stdin string, args ...string) (string, error) {
	stdout, _, err := s.run(ctx, stdin, args...)
	return stdout, err
}

func (s *Server) run(ctx context.Context, stdin string, args ...string) (stdout, stderr string, err error) {
	cmd := s.config.Command(ctx, s.config.Binary, append([]string{"--data-dir", s.config.DataDir}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG=")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("fleet-server %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), errOut.String(), err
}

// Kubectl runs kubectl.
func (s *Server) Kubectl(ctx context.Context, args ...string) (string, error) {
	return s.Run(ctx, "", append([]string{"kubectl"}, args...)...)
}

// Apply applies a manifest with kubectl.
func (s *Server) Apply(ctx context.Context, manifest string) (string, error) {
	return s.Run(ctx, manifest, "kubectl", "apply", "-f", "-")
}

// Token creates an enrollment token.
func (s *Server) Token(ctx context.Context, args ...string) (string, error) {
	out, err := s.Run(ctx, "", append([]string{"token", "create"}, args...)...)
	return strings.TrimSpace(out), err
}

// InstallLine creates an enrollment token and returns the line that installs a
// device with it, for a shell.
func (s *Server) InstallLine(ctx context.Context, args ...string) (string, error) {
	_, said, err := s.run(ctx, "", append([]string{"token", "create"}, args...)...)
	if err != nil {
		return "", err
	}
	return InstallLine(said)
}

// InstallLine finds the line for a device in what "token create" says.
func InstallLine(said string) (string, error) {
	_, line, found := strings.Cut(said, "\n  curl ")
	if !found {
		return "", fmt.Errorf("fleet-server token create: no line for a device in %q", said)
	}
	line, _, _ = strings.Cut(line, "\n")
	return "curl " + line, nil
}

// portOf returns ":port" of a URL, ":0" for an empty one.
func portOf(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Port() == "" {
		return ":0"
	}
	return ":" + u.Port()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	const keep = 8 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - keep; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
