//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that outlives the demo. It is found again by a file
// with its pid and its start time, so that a pid that was given to another
// program is never signalled.
type process struct {
	file string
	log  string
}

const stopTimeout = 10 * time.Second

// start runs a program in a session of its own, with its output in the log.
func (p process) start(path string, args ...string) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting a program: %w", err)
	}
	pid := cmd.Process.Pid
	// Reaps it when it ends before the demo does, so that it is seen to have ended.
	go func() { _ = cmd.Wait() }()
	started, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("%s ended at once: %s", path, lastLine(tail(p.log, 1)))
	}
	if err := os.WriteFile(p.file, fmt.Appendf(nil, "%d %s", pid, started), 0o600); err != nil {
		return fmt.Errorf("noting a process: %w", err)
	}
	return nil
}

// pid returns the process's id, and false when it does not run.
func (p process) pid() (int, bool) {
	data, err := os.ReadFile(p.file)
	if err != nil {
		return 0, false
	}
	number, started, _ := strings.Cut(string(data), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return 0, false
	}
	now, err := startTime(pid)
	return pid, err == nil && now == started
}

// olderThan reports whether the process was started before the file at path changed.
func (p process) olderThan(path string) bool {
	started, err := os.Stat(p.file)
	if err != nil {
		return false
	}
	changed, err := os.Stat(path)
	return err == nil && changed.ModTime().After(started.ModTime())
}

// stop asks the process to end, and kills it when it doesn't.
func (p process) stop(ctx context.Context) error {
	pid, running := p.pid()
	if !running {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stopping process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if poll(ctx, p.ended) == nil {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing process %d: %w", pid, err)
	}
	return nil
}

func (p process) ended() error {
	if pid, running := p.pid(); running {
		return fmt.Errorf("process %d runs", pid)
	}
	return nil
}

// startTime returns when a process was started, in the kernel's ticks since
// boot. A zombie counts as absent.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is the program's name, in parentheses and with anything in it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const state, start = 0, 19 // of fields 3 and 22 in proc(5)
	if len(fields) <= start || fields[state] == "Z" {
		return "", fs.ErrNotExist
	}
	return fields[start], nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
