package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/rights"
)

// completionTime is how long somebody who presses Tab waits.
const completionTime = 10 * time.Second

// fileFlags are flags of kubectl that name files to read. What root could read is
// handed on; other flags name what the server's account can read.
var fileFlags = []string{"-f", "--filename", "--patch-file", "--from-env-file", kubercFlag}

const kubercFlag = "--kuberc"

// kubectlFor runs kubectl as the account that can write its kubeconfig: not
// only could that name a program to run, but the server that it names decides
// what kubectl writes to its cache, too.
func (o *options) kubectlFor(cmd *cobra.Command, account rights.Account, args []string) error {
	files, err := takeFiles(args)
	if err != nil {
		files.Close()
		return err
	}
	defer files.Close()
	process := o.asOwner(cmd.Context(), account, append([]string{"kubectl"}, files.args...)...)
	process.Env = append(process.Env, files.preferences())
	process.ExtraFiles = files.files
	streams := rights.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
	if reads(args) { // else a loop of a shell would lose its input
		streams.In = cmd.InOrStdin()
	}
	if !needsTerminal(args) { // on a terminal of its own the account could write whatever it likes to root's
		streams.Out = struct{ io.Writer }{streams.Out}
	}
	return status(rights.Run(cmd.Context(), process, streams))
}

// completeFor asks kubectl, as the account, what can come next.
func (o *options) completeFor(cmd *cobra.Command, account rights.Account, args []string, toComplete string) ([]byte, error) {
	process := o.asOwner(cmd.Context(), account, append(append([]string{cobra.ShellCompRequestCmd, "kubectl"}, args...), toComplete)...)
	process.Env = append(process.Env, noPreferences)
	var out bytes.Buffer
	end := time.AfterFunc(completionTime, func() { _ = process.Cancel() })
	defer end.Stop()
	err := rights.Run(cmd.Context(), process, rights.Streams{Out: &out, Err: io.Discard})
	return out.Bytes(), err
}

// reads reports whether kubectl reads what is typed.
func reads(args []string) bool {
	if prompts(args) {
		return true
	}
	for i, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch {
		case i == 0 && arg == "edit", arg == "-", value == "-", value == "/dev/stdin", arg == "/dev/stdin", arg == "-f-":
			return true
		case slices.Contains([]string{"-i", "-it", "-ti", "--stdin", "--interactive", "--edit"}, name) && value != "false":
			return true
		}
	}
	return false
}

// prompts reports whether kubectl asks a person at a terminal.
func prompts(args []string) bool {
	return len(args) > 1 && args[0] == "fleet" && args[1] == "approve"
}

// needsTerminal reports whether kubectl asks a person at a terminal, or starts a program
// that does.
func needsTerminal(args []string) bool {
	return prompts(args) || slices.ContainsFunc(args, func(arg string) bool {
		name, value, _ := strings.Cut(arg, "=")
		return arg == "edit" || slices.Contains([]string{"-t", "-it", "-ti", "--tty", "--edit"}, name) && value != "false"
	})
}

// kubeconfigFlag is the file that --kubeconfig names, or "".
func kubeconfigFlag(args []string) (path string) {
	const flag = "--kubeconfig"
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, flag+"="); ok {
			path = value
		} else if arg == flag && i+1 < len(args) {
			path = args[i+1]
		}
	}
	return path
}

// handed are arguments, and copies of the files that they name: descriptors from
// 3 on of the process that gets them.
type handed struct {
	args  []string
	files []*os.File
	// own is the variable that leads to root's preferences, or empty.
	own string
}

// takeFiles copies the files that arguments name, which the server's account may
// be unable to read.
func takeFiles(args []string) (*handed, error) {
	h := &handed{args: slices.Clone(args)}
	err := h.takeArguments(args)
	if err == nil {
		err = h.takePreferences()
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *handed) takeArguments(args []string) error {
	if len(args) > 0 && (args[0] == "logs" || args[0] == "log") {
		return nil // their -f is no file
	}
	for i, arg := range args {
		var err error
		switch name, value, joined := strings.Cut(arg, "="); {
		case joined && slices.Contains(fileFlags, name):
			value, err = h.take(value)
			h.args[i] = name + "=" + value
		case i > 0 && slices.Contains(fileFlags, args[i-1]):
			h.args[i], err = h.take(arg)
		case strings.HasPrefix(arg, "-f") && !joined && len(arg) > 2:
			value, err = h.take(arg[2:])
			h.args[i] = "-f" + value
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(arg, kubercFlag) {
			h.own = "KUBERC=" // kubectl takes no flag beside "off"
		}
	}
	return nil
}

// take returns the path under which the process finds a copy of a file. What is
// no file is kubectl's to judge.
func (h *handed) take(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return path, nil //nolint:nilerr // kubectl says so
	}
	source, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer source.Close()
	fd, err := unix.MemfdCreate(filepath.Base(path), unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("copying %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	h.files = append(h.files, file)
	if _, err := io.Copy(file, source); err != nil {
		return "", fmt.Errorf("copying %s: %w", path, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", len(h.files)+2), nil
}

// noPreferences keeps kubectl from those of the server's account.
const noPreferences = "KUBERC=off"

// takePreferences copies root's preferences for kubectl, where there are any.
func (h *handed) takePreferences() error {
	if h.own != "" {
		return nil
	}
	path := os.Getenv("KUBERC")
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil //nolint:nilerr // nobody's preferences
		}
		path = filepath.Join(home, ".kube", "kuberc")
	}
	taken, err := h.take(path)
	if err == nil && taken != path {
		h.own = "KUBERC=" + taken
	}
	return err
}

func (h *handed) preferences() string {
	if h.own == "" {
		return noPreferences
	}
	return h.own
}

// Close closes the copies.
func (h *handed) Close() {
	for _, f := range h.files {
		_ = f.Close() // of memory
	}
}
