package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/support"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/version"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// bundleTimeout bounds the whole command.
	bundleTimeout = 5 * time.Minute
	// doctorTimeout bounds its report, which asks a server and podman.
	doctorTimeout = 2 * time.Minute
	// maxFiles bounds the files of the state directory that are listed.
	maxFiles = 2000
	// journalLines is how much of the agent's journal is wanted.
	journalLines = "20000"
)

// supportBundle is what the command support-bundle was told and works with.
type supportBundle struct {
	flags

	withOutput bool
	cfg        config.Config
	// journal is the command that prints the agent's journal.
	journal []string
}

func newSupportBundle(f flags) *cobra.Command {
	b := supportBundle{flags: f, journal: []string{"journalctl", "--unit=fleet-agent", "--no-pager", "--output=short-iso", "--lines=" + journalLines}}
	cmd := &cobra.Command{
		Use:   "support-bundle [FILE]",
		Short: "Write an archive of what somebody needs who helps with this device",
		Long: `Write an archive (tar.gz) of what somebody needs who helps with this device: the
status, the report of doctor, versions, the configuration, facts about the
device, podman and its containers, crashes, the agent's journal, and the sizes of
the agent's files. Run it as root: other users cannot look at everything.

Keys, tokens, Secrets and passwords are taken out, and what workloads write is
left out unless --with-output is given, since it may hold their secrets. Look
through the archive all the same before you hand it on: it has names and
addresses of this device.

The default FILE is in the present directory. An existing file is never replaced.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := "fleet-support-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"
			if len(args) > 0 {
				file = args[0]
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), bundleTimeout)
			defer cancel()
			missing, err := b.write(ctx, file)
			if err != nil {
				return err
			}
			for _, m := range missing {
				printable.Fprintf(cmd.ErrOrStderr(), "fleet-agent: left out: %s\n", m)
			}
			printable.Fprintf(cmd.OutOrStdout(), "%s is written; look through it before you hand it on\n", file)
			return nil
		},
	}
	cmd.Flags().BoolVar(&b.withOutput, "with-output", false, "put in what workloads wrote before they crashed, which may hold their secrets")
	return cmd
}

// write writes the archive to a file that is not there yet.
func (b supportBundle) write(ctx context.Context, file string) (missing []string, err error) {
	var cfgErr error
	if b.cfg, _, cfgErr = b.settings(); cfgErr != nil {
		b.cfg = config.Default()
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists already, and is not replaced: name another file", file)
	}
	if err != nil {
		return nil, fmt.Errorf("writing the support bundle: %w", err)
	}
	a := support.Archive{Entries: b.entries(cfgErr), Scrub: b.scrubber(), Now: time.Now()}
	if !b.withOutput {
		a.Notes = []string{"What workloads wrote is not in here: fleet-agent support-bundle --with-output puts it in."}
	}
	missing, err = a.Write(ctx, out)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return nil, fmt.Errorf("writing the support bundle: %w", errors.Join(err, os.Remove(file)))
	}
	return missing, nil
}

// settings loads the configuration.
func (b supportBundle) settings() (config.Config, string, error) {
	path, asked := b.path()
	cfg, err := config.Load(path, asked, os.Environ(), b.FlagSet)
	if err == nil {
		err = cfg.Validate()
	}
	return cfg, path, err
}

// scrubber knows the secrets of the device, as far as they can be read.
func (b supportBundle) scrubber() *support.Scrubber {
	s := &support.Scrubber{KeepOutput: b.withOutput}
	s.Add([]byte(os.Getenv(envToken)))
	_ = inState(b.cfg.StateDir, func() error { // what cannot be read cannot get into the archive
		for _, secret := range store.View(b.cfg.StateDir, slog.New(slog.DiscardHandler)).Confidential() {
			s.Add(secret)
		}
		return nil
	})
	path, _ := b.path()
	for _, secret := range podman.Passwords(authFile(b.cfg, path)) {
		s.Add([]byte(secret))
	}
	way, _ := wayOut(b.cfg, environment()) // what cannot be read, as above
	for _, secret := range way.Confidential() {
		s.Add([]byte(secret))
	}
	return s
}

func (b supportBundle) entries(cfgErr error) []support.Entry {
	socket := findSocket(b.cfg)()
	runtime := func(do func(*podman.Client) (any, error)) ([]byte, error) {
		c := podman.New(func() string { return socket }, "")
		defer c.Close()
		return document(do(c))
	}
	return []support.Entry{
		{Name: "version.txt", About: "version of the agent's program", Read: func(context.Context) ([]byte, error) { return []byte(version.String() + "\n"), nil }},
		{Name: "status.json", About: "what the running agent says", Read: func(ctx context.Context) ([]byte, error) {
			return document(control.ReadStatus(ctx, b.cfg.StateDir))
		}},
		{Name: "doctor.json", About: "what fleet-agent doctor finds", Within: doctorTimeout, Read: func(ctx context.Context) ([]byte, error) {
			return document(examine(ctx, b.flags, false), nil)
		}},
		{Name: "agent.yaml", About: "the settings, of file and environment, without comments", Read: func(context.Context) ([]byte, error) {
			if cfgErr != nil {
				return nil, cfgErr
			}
			return yaml.Marshal(b.cfg)
		}},
		{Name: "facts.json", About: "what the device is", Read: func(context.Context) ([]byte, error) { return document(b.facts(), nil) }},
		{Name: "podman.json", About: "what podman says of itself", Read: func(ctx context.Context) ([]byte, error) {
			return runtime(func(c *podman.Client) (any, error) { return c.About(ctx) })
		}},
		{Name: "containers.json", About: "the containers of fleet", Read: func(ctx context.Context) ([]byte, error) {
			return runtime(func(c *podman.Client) (any, error) { return c.List(ctx, wire.DeploymentRef{}) })
		}},
		{Name: "crashes.json", About: "crashes that were kept", Read: func(context.Context) ([]byte, error) { return document(b.crashes()) }},
		{Name: "files.json", About: "sizes of the agent's files, and of their file system", Read: func(context.Context) ([]byte, error) { return document(b.files()) }},
		{Name: "journal.txt", About: "the end of the agent's journal", Read: b.readJournal},
	}
}

// document is a value as JSON, unless there is an error.
func document(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

func (b supportBundle) facts() any {
	size, available := facts.Memory("/")
	return struct {
		wire.Inventory
		Boot                        string
		Uptime                      time.Duration
		MemorySize, MemoryAvailable uint64
	}{facts.Collect("/"), facts.Boot("/"), facts.Uptime(), size, available}
}

// crashes are what was kept, with the output as text or without it.
func (b supportBundle) crashes() (any, error) {
	type crash struct {
		crashes.Crash
		How    string `json:"how"`
		Output string `json:"output,omitempty"`
	}
	list := []crash{}
	err := inState(b.cfg.StateDir, func() error {
		all, err := crashes.Read(crashesDir(b.cfg))
		for _, c := range all {
			shown := crash{Crash: c, How: c.How()}
			if b.withOutput {
				shown.Output = string(c.Output)
			}
			list = append(list, shown)
		}
		return err
	})
	return list, err
}

// files lists the state directory.
func (b supportBundle) files() (any, error) {
	type file struct {
		Name     string      `json:"name"`
		Size     int64       `json:"size"`
		Mode     fs.FileMode `json:"mode"`
		Modified time.Time   `json:"modified"`
	}
	var found struct {
		Directory  string           `json:"directory"`
		FileSystem facts.FileSystem `json:"fileSystem"`
		Bytes      int64            `json:"bytes"`
		Count      int              `json:"count"`
		Files      []file           `json:"files"`
	}
	found.Directory = b.cfg.StateDir
	err := inState(b.cfg.StateDir, func() error {
		var err error
		if found.FileSystem, err = facts.Disk(b.cfg.StateDir); err != nil {
			return err
		}
		return filepath.WalkDir(b.cfg.StateDir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return nil //nolint:nilerr // it went meanwhile
			}
			found.Bytes, found.Count = found.Bytes+info.Size(), found.Count+1
			if name, err := filepath.Rel(b.cfg.StateDir, path); err == nil && len(found.Files) < maxFiles {
				found.Files = append(found.Files, file{name, info.Size(), info.Mode(), info.ModTime().UTC()})
			}
			return nil
		})
	})
	return found, err
}

// maxJournal bounds what is read of the journal, in bytes.
const maxJournal = 4 << 20

func (b supportBundle) readJournal(ctx context.Context) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.journal[0], b.journal[1:]...)
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	data, readErr := io.ReadAll(io.LimitReader(out, maxJournal))
	_, _ = io.Copy(io.Discard, out) // or it would not end
	if err := errors.Join(readErr, cmd.Wait()); err != nil {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the journal has nothing of fleet-agent that this user may read")
	}
	return data, nil
}
