//go:build linux

package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func newProcess(t *testing.T) process {
	t.Helper()
	dir := t.TempDir()
	p := process{file: filepath.Join(dir, "pid"), log: filepath.Join(dir, "log")}
	t.Cleanup(func() {
		if err := p.stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestProcessStartsAndStops(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	if err := p.start("sleep", "60"); err != nil {
		t.Fatal(err)
	}
	pid, running := p.pid()
	if !running {
		t.Fatal("the process doesn't run")
	}
	if err := p.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, running := p.pid(); running {
		t.Errorf("process %d runs after stop", pid)
	}
	if err := p.stop(t.Context()); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

// TestProcessSparesOthers: a pid that another program got is left alone.
func TestProcessSparesOthers(t *testing.T) {
	t.Parallel()
	other := exec.CommandContext(t.Context(), "sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Wait() }) // the context's end kills it
	p := newProcess(t)
	if err := os.WriteFile(p.file, []byte(strconv.Itoa(other.Process.Pid)+" 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := startTime(other.Process.Pid); err != nil {
		t.Error("another program was stopped")
	}
}

func TestProcessIsOlderThanItsBinary(t *testing.T) {
	t.Parallel()
	p := newProcess(t)
	binary := filepath.Join(t.TempDir(), "binary")
	for _, path := range []string{p.file, binary} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	for _, tt := range []struct {
		changed time.Time
		want    bool
	}{{now.Add(-time.Hour), false}, {now.Add(time.Hour), true}} {
		if err := os.Chtimes(binary, tt.changed, tt.changed); err != nil {
			t.Fatal(err)
		}
		if got := p.olderThan(binary); got != tt.want {
			t.Errorf("binary changed %s from now: got %v, want %v", tt.changed.Sub(now), got, tt.want)
		}
	}
}

func TestServerKeepsItsPorts(t *testing.T) {
	t.Parallel()
	s := &server{dir: t.TempDir()}
	if err := s.loadPorts(); err != nil {
		t.Fatal(err)
	}
	again := &server{dir: s.dir}
	if err := again.loadPorts(); err != nil {
		t.Fatal(err)
	}
	if s.ports != again.ports || s.ports.API == 0 {
		t.Errorf("first %+v, then %+v", s.ports, again.ports)
	}
}

func TestFreePortAvoidsATakenOne(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", loopback(0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	if got, err := freePort(taken); err != nil || got == taken {
		t.Errorf("got %d, %v for the taken port %d", got, err, taken)
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("1\n2\n3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{1: "3", 2: "2\n3", 9: "1\n2\n3"} {
		if got := tail(path, n); got != want {
			t.Errorf("tail %d: got %q, want %q", n, got, want)
		}
	}
	if got := tail(path+"x", 1); got != "" {
		t.Errorf("of a missing file: %q", got)
	}
}

func TestReportIndents(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := &report{out: &out}
	r.step(2, 3, "title")()
	if _, err := r.Write([]byte("a\nb\n")); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "[2/3] title\n      a\n      b\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
