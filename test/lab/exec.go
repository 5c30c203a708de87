//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// environment of commands in a machine; nothing of the host's gets in.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LANG=C.UTF-8", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive",
}

// Result is what a command left.
type Result struct {
	Stdout, Stderr string
	// ExitCode is that of the command.
	ExitCode int
}

// ExitError is the error of Output for a command that ended with a status
// other than 0.
type ExitError struct {
	Command string
	Result
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit status %d: %s", e.Command, e.ExitCode, strings.TrimSpace(e.Stderr))
}

// Run runs a command as root in a transient unit of the machine's systemd. The
// error is about the machine; how the command ended is in the Result. When ctx
// ends Run returns, but the unit may go on.
func (m *Machine) Run(ctx context.Context, args ...string) (Result, error) {
	return m.run(ctx, nil, systemUnit("root", args))
}

// RunAs is Run as another user: in the user's own systemd when that runs (what
// podman needs), else in a unit of the system. Processes that the command
// leaves behind live on, as the container of podman run -d does.
func (m *Machine) RunAs(ctx context.Context, user string, args ...string) (Result, error) {
	return m.runAs(ctx, nil, user, args)
}

func (m *Machine) runAs(ctx context.Context, stdin io.Reader, user string, args []string) (Result, error) {
	lingers, err := m.userManagerRuns(ctx, user)
	if err != nil {
		return Result{}, err
	}
	if !lingers {
		return m.run(ctx, stdin, systemUnit(user, args))
	}
	return m.run(ctx, stdin, userUnit(user, args))
}

// Output runs a command as root and returns its standard output; a status
// other than 0 is an ExitError.
func (m *Machine) Output(ctx context.Context, args ...string) (string, error) {
	r, err := m.Run(ctx, args...)
	return output(args, r, err)
}

// OutputAs is Output as another user, see RunAs.
func (m *Machine) OutputAs(ctx context.Context, user string, args ...string) (string, error) {
	r, err := m.RunAs(ctx, user, args...)
	return output(args, r, err)
}

func output(args []string, r Result, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if r.ExitCode != 0 {
		return r.Stdout, &ExitError{Command: strings.Join(args, " "), Result: r}
	}
	return r.Stdout, nil
}

// CopyIn copies a file of the host into the machine, owned by root, and makes
// the directories above it.
func (m *Machine) CopyIn(ctx context.Context, src, dst string, mode os.FileMode) error {
	f, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copying into %s: %w", m.Name, err)
	}
	defer f.Close()
	return m.WriteFile(ctx, dst, f, mode)
}

// WriteFile writes a file in the machine, owned by root, and makes the
// directories above it.
func (m *Machine) WriteFile(ctx context.Context, dst string, content io.Reader, mode os.FileMode) error {
	install := []string{"install", "-D", "-m", strconv.FormatUint(uint64(mode.Perm()), 8), "/dev/stdin", dst}
	r, err := m.run(ctx, content, systemUnit("root", install))
	if _, err := output(install, r, err); err != nil {
		return fmt.Errorf("writing %s in %s: %w", dst, m.Name, err)
	}
	return nil
}

func (m *Machine) userManagerRuns(ctx context.Context, user string) (bool, error) {
	r, err := m.Run(ctx, "sh", "-c", `id=$(id -u "$1") && systemctl is-active --quiet "user@$id.service"`, "sh", user)
	return r.ExitCode == 0, err
}

// systemUnit wraps a command in a unit of the system's systemd: a process that
// merely enters the namespaces is in no cgroup that logind knows.
func systemUnit(user string, args []string) []string {
	unit := []string{
		"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec",
		"--uid=" + user, "--property=KillMode=process",
	}
	for _, e := range environment {
		unit = append(unit, "--setenv="+e)
	}
	if user == "root" {
		unit = append(unit, "--setenv=HOME=/root")
	}
	return append(append(unit, "--"), literal(args)...)
}

// literal protects arguments from systemd, which expands variables in them.
func literal(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = strings.ReplaceAll(arg, "$", "$$")
	}
	return out
}

// userUnit wraps a command in a unit of the user's systemd.
func userUnit(user string, args []string) []string {
	const enter = `uid=$(id -u "$1"); gid=$(id -g "$1"); home=$(getent passwd "$1" | cut -d: -f6); shift
		cd / && exec setpriv --reuid="$uid" --regid="$gid" --init-groups \
			env HOME="$home" XDG_RUNTIME_DIR="/run/user/$uid" "$@"`
	unit := []string{
		"sh", "-c", enter, "sh", user,
		"systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec",
		"--property=KillMode=process", "--",
	}
	return append(unit, literal(args)...)
}

// enter builds a host command that runs args in the namespaces of a machine's PID 1.
func enter(leader int, args ...string) *exec.Cmd {
	nsenter := []string{
		"--target", strconv.Itoa(leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"env", "-i",
	}
	nsenter = append(append(nsenter, environment...), args...)
	return exec.Command("nsenter", nsenter...)
}

func (m *Machine) run(ctx context.Context, stdin io.Reader, args []string) (Result, error) {
	leader, err := m.leader()
	if err != nil {
		return Result{}, fmt.Errorf("running a command in %s: the machine is off", m.Name)
	}
	r, err := execute(ctx, stdin, enter(leader, args...))
	if err != nil {
		return r, fmt.Errorf("running a command in %s: %w", m.Name, err)
	}
	return r, nil
}

// execute runs cmd; that it ends with a status other than 0 is no error.
func execute(ctx context.Context, stdin io.Reader, cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := runGroup(ctx, cmd)
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case errors.As(err, &exit) && exit.Exited():
		result.ExitCode = exit.ExitCode()
		return result, nil
	}
	return result, err
}

// runGroup runs cmd and kills all of its process group when ctx ends: nsenter
// has a child.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A unit that goes on holds the pipes open, and systemd does for a moment after
	// its end.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { keepRunning(cmd.Process, done) })
	err := cmd.Wait()
	close(done)
	wg.Wait()
	return err
}

// keepRunning continues nsenter when it has stopped itself. systemd stops all
// processes of a machine before it kills them; nsenter follows its child, then
// does not reap it, and the machine's pid namespace waits for that forever.
func keepRunning(nsenter *os.Process, done <-chan struct{}) {
	ticker := time.NewTicker(10 * pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			_ = nsenter.Signal(syscall.SIGCONT) // it may have ended
		}
	}
}
