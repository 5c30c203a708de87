package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// exitStatus ends the program with a status and without a message: what there
// is to say was printed.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// Exit statuses of the command doctor.
const (
	exitAttention exitStatus = 1 // warnings, or things that could not be looked at
	exitFailure   exitStatus = 2 // failures, or no report at all
)

func newDoctor(f flags) *cobra.Command {
	var output string
	var fix bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out what keeps containers or the connection from working, and how to fix it",
		Long: `Find out what keeps containers or the connection from working, and how to fix it.

Run it as root: other users cannot look at everything. With --fix it runs those
of the commands that it shows which are safe: none of them removes data or
installs packages. Containers go on, unless podman has to be given new
subordinate ids; the agent starts them again then.

The exit status is 0 when everything is well, 1 when there are warnings or things
that could not be looked at, and 2 when there are failures.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %.32q is unknown: use text or json", output)
			}
			if fix && os.Geteuid() != 0 {
				return errors.New("--fix needs root: run sudo fleet-agent doctor --fix")
			}
			report := examine(cmd.Context(), f, fix)
			if err := printReport(cmd.OutOrStdout(), report, output); err != nil {
				return err
			}
			return statusOf(report)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().BoolVar(&fix, "fix", false, "run the commands that are safe, then look again")
	return cmd
}

// examine looks at the device, and once more after the repairs.
func examine(ctx context.Context, f flags, fix bool) doctor.Report {
	probe, done := newProbe(f)
	defer done()
	report := doctor.Examine(probe.Read(ctx))
	if !fix {
		return report
	}
	repairs := doctor.Fix(ctx, report)
	if len(repairs) > 0 {
		again, doneAgain := newProbe(f) // with the accounts that are there now
		defer doneAgain()
		report = doctor.Examine(again.Read(ctx))
	}
	report.Repairs = repairs
	return report
}

// newProbe looks with the defaults where the configuration cannot be read.
func newProbe(f flags) (probe doctor.Probe, done func()) {
	path, asked := f.path()
	cfg, err := config.Load(path, asked, environment(), f.FlagSet)
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		cfg = config.Default()
	}
	way, wayErr := wayOut(cfg, environment())
	if err == nil {
		err = wayErr
	}
	runtime := podman.New(findSocket(cfg), authFile(cfg, path))
	here := local(cfg)
	here.RepositoryRoots, here.RepositoryForm = hostinstall.RepositoryRoots(), hostinstall.RepositoryForm()
	probe = settingsProbe(cfg, path)
	if probe.Workload == workloadUser {
		probe.NamesLost = (&helper.Client{Socket: helper.Socket}).NamesLost
	}
	probe.Groups = groups(cfg)
	probe.Interpreters = func(ctx context.Context) []doctor.Interpreter { return askInterpreters(ctx, cfg.FileRoots) }
	probe.Local, probe.ConfigErr, probe.Podman, probe.Keys, probe.Proxy = here, err, runtime, keyStorage(cfg), way
	return probe, runtime.Close
}

// settingsProbe looks at what agent.yaml and an installation may get wrong.
func settingsProbe(cfg config.Config, path string) doctor.Probe {
	p := doctor.Probe{Local: local(cfg), Config: cfg, ConfigPath: path, Binds: binds(cfg, path), Helper: helperAnswers}
	if p.Workload != workloadUser {
		return p
	}
	p.Binds.Hidden = unitHides // wherever this runs
	if os.Geteuid() == 0 {
		// What root is told to do is nobody's word: doctor looks itself, with the account's rights.
		p.Binds.Look = func(paths []string) (trail.Trail, error) {
			return trail.Walk(paths), helperAnswers(context.Background())
		}
	}
	return p
}

func helperAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, err := (&helper.Client{Socket: helper.Socket}).Look(ctx, []string{"/"})
	return err
}

// sayWhatCannotWork logs what doctor would find of it.
func sayWhatCannotWork(ctx context.Context, cfg config.Config, path string, log *slog.Logger) {
	p := settingsProbe(cfg, path)
	f := p.Local.Read()
	p.ReadSettings(ctx, &f)
	for _, finding := range doctor.Settings(f) {
		if ctx.Err() == nil && finding.State != doctor.OK {
			log.Warn("a setting does not work", "check", finding.Check, "reason", finding.Message, "fix", finding.Command)
		}
	}
}

// local reads about the account whose podman the agent uses.
func local(cfg config.Config) doctor.Local {
	socket := findSocket(cfg)()
	return doctor.Local{Root: "/", Workload: workloadAccount(socket), Socket: socket, Lookup: user.Lookup}
}

// workloadAccount is the account that podman's socket belongs to, or "" when that
// cannot be seen.
func workloadAccount(socket string) string {
	if socket == podman.WorkloadSocket {
		return workloadUser
	}
	for _, path := range []string{socket, filepath.Dir(socket)} {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			if u, err := user.LookupId(strconv.FormatUint(uint64(owner.Uid), 10)); err == nil {
				return u.Username
			}
		}
		return ""
	}
	return ""
}

func statusOf(r doctor.Report) error {
	switch r.State {
	case doctor.OK:
		return nil
	case doctor.Failure:
		return exitFailure
	}
	return exitAttention
}

func printReport(out io.Writer, r doctor.Report, output string) error {
	out = printable.NewWriter(out)
	if output == "json" {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false) // commands are for people, too
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	for _, repair := range r.Repairs {
		printable.Fprintf(&b, "ran      %s\n", repair.Command)
		if repair.Error != "" {
			printable.Fprintf(&b, "         which failed: %s\n", repair.Error)
		}
	}
	for _, f := range r.Findings {
		printable.Fprintf(&b, "%-8s %-18s %s\n", f.State, f.Check, f.Message)
		if f.State == doctor.OK {
			continue
		}
		printable.Fprintf(&b, "%-27s why:  %s\n", "", f.Why)
		if f.Command != "" {
			printable.Fprintf(&b, "%-27s fix: %s\n", "", f.Command)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
