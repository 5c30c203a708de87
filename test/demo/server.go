//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const readyTimeout = 60 * time.Second

// server is fleet-server as a process of this host, on loopback.
type server struct {
	binary string
	dir    string
	ports  ports
}

// ports are chosen at the first start and kept, since the device knows them.
type ports struct {
	API    int `json:"api"`
	NATS   int `json:"nats"`
	Enroll int `json:"enroll"`
}

func (s *server) dataDir() string   { return filepath.Join(s.dir, "server") }
func (s *server) logFile() string   { return filepath.Join(s.dir, "server.log") }
func (s *server) portsFile() string { return filepath.Join(s.dir, "ports.json") }
func (s *server) enrollURL() string { return "https://" + loopback(s.ports.Enroll) }

func (s *server) process() process {
	return process{file: filepath.Join(s.dir, "server.pid"), log: s.logFile()}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// start makes the server run from the current binary.
func (s *server) start(ctx context.Context) error {
	if err := s.loadPorts(); err != nil {
		return err
	}
	p := s.process()
	if _, running := p.pid(); running && !p.olderThan(s.binary) {
		return s.ready(ctx)
	}
	if err := p.stop(ctx); err != nil {
		return err
	}
	err := p.start(s.binary, "run", "--data-dir", s.dataDir(),
		"--api-listen", loopback(s.ports.API), "--nats-listen", loopback(s.ports.NATS), "--enroll-listen", loopback(s.ports.Enroll))
	if err != nil {
		return err
	}
	return s.ready(ctx)
}

// ready waits until the server answers, or has ended.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var ended error
	err := poll(ctx, func() error {
		if _, running := s.process().pid(); !running {
			ended = fmt.Errorf("fleet-server ended: %s", lastLine(tail(s.logFile(), 1)))
			return nil
		}
		_, err := s.kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
	return errors.Join(ended, err)
}

func (s *server) stop(ctx context.Context) error { return s.process().stop(ctx) }

// kubectl runs the embedded kubectl as the administrator.
func (s *server) kubectl(ctx context.Context, args ...string) (string, error) {
	return s.command(ctx, append([]string{"kubectl", "--data-dir", s.dataDir()}, args...)...)
}

// token creates an enrollment token that needs no approval.
func (s *server) token(ctx context.Context) (string, error) {
	out, err := s.command(ctx, "token", "create", "--pre-approve", "--label", deviceLabel, "--data-dir", s.dataDir())
	return lastLine(out), err
}

func (s *server) command(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, s.binary, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), fmt.Errorf("fleet-server %s: %s", args[0], strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// loadPorts reads the ports of an earlier start or chooses them.
func (s *server) loadPorts() error {
	data, err := os.ReadFile(s.portsFile())
	if err == nil {
		if err := json.Unmarshal(data, &s.ports); err != nil {
			return fmt.Errorf("reading %s: %w", s.portsFile(), err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the server's ports: %w", err)
	}
	if err := s.choosePorts(); err != nil {
		return err
	}
	if data, err = json.Marshal(s.ports); err != nil {
		return fmt.Errorf("encoding the server's ports: %w", err)
	}
	return os.WriteFile(s.portsFile(), data, 0o600)
}

// choosePorts takes the usual ports where they are free.
func (s *server) choosePorts() error {
	for _, p := range []struct {
		port  *int
		usual int
	}{{&s.ports.API, 6443}, {&s.ports.NATS, 4222}, {&s.ports.Enroll, 8443}} {
		port, err := freePort(p.usual)
		if err != nil {
			return err
		}
		*p.port = port
	}
	return nil
}

func freePort(usual int) (int, error) {
	l, err := net.Listen("tcp", loopback(usual))
	if err != nil {
		l, err = net.Listen("tcp", loopback(0))
	}
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
