package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/agent/files"
	agentinterpreter "fleet.nationtech.io/fleet/pkg/agent/interpreter"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/score"
)

const (
	// filesUnit is the unit that puts files, without its ending.
	filesUnit = "fleet-agent-files"
	// filesSocket is where it listens.
	filesSocket = "/run/fleet-interpreters/files.sock"
	// filesDropIn lets the unit write below fileRoots.
	filesDropIn = "/run/systemd/system/" + filesUnit + ".service.d/50-file-roots.conf"
	// unitTimeout bounds one call of systemctl.
	unitTimeout = 10 * time.Second
)

// newFiles is the part of the agent that puts files of the device, as root.
func newFiles(f flags) *cobra.Command {
	var prepare bool
	cmd := &cobra.Command{
		Use:    "files",
		Short:  "Put the files of Deployments of type FilesV0, as root, below fileRoots of agent.yaml",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, log, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			if path, _ := f.path(); len(cfg.FileRoots) > 0 {
				if err := rootsOwn(path); err != nil {
					return err
				}
			}
			if prepare {
				return prepareFiles(cmd.Context(), cfg.FileRoots, log)
			}
			return serveFiles(cmd.Context(), cfg.FileRoots, log)
		},
	}
	cmd.Flags().BoolVar(&prepare, "prepare", false, "let the unit write below fileRoots and start its socket, or stop it when there are none, as the service does at its start")
	return cmd
}

// rootsOwn refuses a configuration that others could change: by it, they would have files
// of root's.
func rootsOwn(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	const othersWrite = 0o022
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || int(s.Uid) != os.Geteuid() || info.Mode().Perm()&othersWrite != 0 {
		return fmt.Errorf("%s could be changed by others than root: chown root %s; chmod go-w %s", path, path, path)
	}
	return nil
}

// serveFiles serves the socket that systemd listens on.
func serveFiles(ctx context.Context, roots []string, log *slog.Logger) error {
	dir := os.Getenv("STATE_DIRECTORY")
	if dir == "" {
		return errors.New("systemd starts this program, by " + filesUnit + ".socket")
	}
	listener, err := activated(filesUnit + ".socket")
	if err != nil {
		return err
	}
	defer listener.Close()
	s := interpreter.Server{Interpreter: &files.Files{Dir: dir, Roots: roots, Log: log}, Admit: interpreter.PeerIs(agentIDs()...), Log: log}
	return s.Serve(ctx, listener)
}

// agentIDs are root and the agent's account.
func agentIDs() []int {
	ids := []int{os.Geteuid()}
	if account, err := local(config.Default()).Lookup(agentUser); err == nil {
		if uid, err := strconv.Atoi(account.Uid); err == nil {
			ids = append(ids, uid)
		}
	}
	return ids
}

// prepareFiles makes systemd let the unit write below the roots and nowhere else, and
// listens for the agent. Without roots nothing listens.
func prepareFiles(ctx context.Context, roots []string, log *slog.Logger) error {
	content := dropIn(roots)
	had, err := os.ReadFile(filesDropIn)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(had, content) {
		if err := writeDropIn(content); err != nil {
			return err
		}
		log.Info("the directories changed in which Deployments may put files", "roots", len(roots))
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
		if err := systemctl(ctx, "stop", filesUnit+".socket", filesUnit+".service"); err != nil {
			return err
		}
	}
	if len(roots) == 0 {
		return nil
	}
	// The next request starts it anew, after an upgrade as the next version.
	if err := systemctl(ctx, "stop", filesUnit+".service"); err != nil {
		return err
	}
	return systemctl(ctx, "start", filesUnit+".socket")
}

// dropIn is empty for no roots. A root that does not exist is named to whoever wants a file
// there; the unit starts all the same.
func dropIn(roots []string) []byte {
	if len(roots) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("# From fileRoots of agent.yaml, written whenever fleet-agent.service starts.\n[Service]\n")
	for _, root := range roots {
		fmt.Fprintf(&b, "ReadWritePaths=-%s\n", root)
	}
	return []byte(b.String())
}

func writeDropIn(content []byte) error {
	if content == nil {
		return os.Remove(filesDropIn)
	}
	if err := os.MkdirAll(filepath.Dir(filesDropIn), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(filesDropIn, content, 0o644)
}

func systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, unitTimeout)
	defer cancel()
	return runCalled("systemctl "+strings.Join(args, " "), exec.CommandContext(ctx, "systemctl", args...)) //nolint:gosec // our own words
}

// askInterpreters looks at all that interpreters would be, and asks each.
func askInterpreters(ctx context.Context, roots []string) (list []doctor.Interpreter) {
	chosen, refused := findInterpreters(roots, driver.New(driver.Config{}).About().Types)
	for _, err := range refused {
		list = append(list, doctor.Interpreter{Name: "a registration that is not used", Problem: err})
	}
	for _, c := range chosen {
		i := doctor.Interpreter{Name: "interpreter " + c.Name + " at " + c.Socket}
		if c.Socket == filesSocket {
			i.Unit = filesUnit
		}
		_, i.Problem = agentinterpreter.New(c).Ready(ctx)
		list = append(list, i)
	}
	return list
}

// findInterpreters returns those that may be used, and why others are not.
func findInterpreters(roots, taken []string) (chosen []agentinterpreter.Config, refused []error) {
	found, refused := agentinterpreter.Find(agentinterpreter.Dir, 0)
	if len(roots) > 0 {
		found = append([]agentinterpreter.Config{{Name: "files", Types: []string{score.TypeFilesV0}, Socket: filesSocket}}, found...)
	} else {
		taken = append(taken, score.TypeFilesV0)
	}
	chosen, doubled := agentinterpreter.Choose(found, taken)
	return chosen, append(refused, doubled...)
}

// interpreters are the drivers whose workloads other programs run: files of the device, where
// agent.yaml lists roots, and what packages registered. None takes a type of taken.
func interpreters(roots, taken []string, log *slog.Logger) (all []workload.Driver) {
	chosen, refused := findInterpreters(roots, taken)
	for _, err := range refused {
		log.Warn("an interpreter is not used", "reason", printable.Squeeze(err.Error()))
	}
	for _, c := range chosen {
		all = append(all, agentinterpreter.New(c))
	}
	return all
}
