package hostinstall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// readyWithin is how long a service may take until it is ready.
const readyWithin = 60 * time.Second

// Errors of an installation; match them with errors.Is. ExitCode turns them
// into the status of a command.
var (
	// ErrKept: files that were edited, or that somebody else wrote, are as they were.
	ErrKept = errors.New("files that were not written by this program stay as they are, see above; change them by hand, or move them away and run this again")
	// ErrNotReady: the service did not become ready.
	ErrNotReady = errors.New("the service is not ready")
	// ErrRefused: it would have done harm. Nothing was changed.
	ErrRefused = errors.New("nothing was changed")
)

// Installer installs, upgrades and uninstalls one product on one host.
type Installer struct {
	Host    Host
	Product Product
	// Program is the path of the program that runs.
	Program string
	Version string
	// Out is told what is done.
	Out io.Writer
	// DryRun says what would be done, and does nothing.
	DryRun bool

	manifest manifest
	packaged bool
	booted   bool
}

// Options are what an operator decides about an installation.
type Options struct {
	// Settings go into the configuration file.
	Settings []Setting
	// DataDir is the data directory that follows from the configuration and the
	// settings.
	DataDir string
	// NoStart leaves it to the operator to enable and start the service.
	NoStart bool
	// AllowDowngrade installs a version older than the one that is installed.
	AllowDowngrade bool
	// Package is the file that the installed package came from, for the way back
	// from a later upgrade; may be empty.
	Package string
}

func (in *Installer) say(format string, args ...any) { fmt.Fprintf(in.Out, format+"\n", args...) }

// begin finds out what is there.
func (in *Installer) begin(ctx context.Context) error {
	if err := in.load(); err != nil {
		return err
	}
	_, err := in.Host.Lstat("/run/systemd/system")
	in.booted = err == nil
	in.packaged = in.ownedByPackage(ctx)
	if _, static := in.manifest.Files[in.Product.Program()]; static && in.packaged {
		return fmt.Errorf("%s is installed both by a package and without one: run %s uninstall, then this again: %w",
			in.Product.Name, in.Product.Program(), ErrRefused)
	}
	return nil
}

// ownedByPackage reports whether a package manager put the program there.
func (in *Installer) ownedByPackage(ctx context.Context) bool {
	for _, query := range [][]string{
		{"dpkg-query", "--search", in.Product.Packaged()},
		{"rpm", "--query", "--file", in.Product.Packaged()},
	} {
		if !in.Host.Has(query[0]) {
			continue
		}
		if _, err := in.Host.Query(ctx, query...); err == nil {
			return true
		}
	}
	return false
}

// Install makes the host what the options say. It may be run any number of
// times, and after an interruption. Errors wrap ErrKept, ErrNotReady or
// ErrRefused, or come from the host.
func (in *Installer) Install(ctx context.Context, o Options) error {
	if err := in.begin(ctx); err != nil {
		return err
	}
	if err := in.settle(ctx); err != nil {
		return err
	}
	if err := in.checkDataDir(o.DataDir); err != nil {
		return err
	}
	plans, err := in.wanted(o)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(plans, func(p planned) bool { return p.source != "" && p.verdict == kept }); i >= 0 {
		return fmt.Errorf("%s was not installed by this program: move it away, then run this again: %w", plans[i].path, ErrRefused)
	}
	if moves, err := in.movesData(o); err != nil {
		return err
	} else if moves && in.replacesProgram(plans) {
		return fmt.Errorf("the data directory and the version cannot change at once, since there would be no way back: run %s install --data-dir %s first, then the upgrade: %w",
			in.program(), o.DataDir, ErrRefused)
	}
	if in.replacesProgram(plans) {
		if err := o.refuseOlder(in.Version, in.manifest.Version); err != nil {
			return err
		}
	}
	in.show(plans)
	if in.DryRun {
		return nil
	}
	if in.replacesProgram(plans) || in.manifest.Upgrade != nil {
		err = in.upgrade(ctx, o, func(ctx context.Context) error { return in.apply(ctx, o, plans) }, in.restoreFiles)
	} else if err = in.apply(ctx, o, plans); err == nil {
		err = in.start(ctx, o)
	}
	if err != nil {
		return err
	}
	return verdictError(plans)
}

// wanted plans every file that the host should have.
func (in *Installer) wanted(o Options) ([]planned, error) {
	var files []file
	if !in.packaged {
		own, err := in.Product.unpackaged(in.Program, in.booted)
		if err != nil {
			return nil, err
		}
		files = own
	}
	if len(o.Settings) > 0 {
		config, err := in.configuration(o.Settings)
		if err != nil {
			return nil, err
		}
		if config != nil {
			files = append(files, *config)
		}
	}
	if d := in.dropIn(o.DataDir); d != nil {
		files = append(files, *d)
	}
	return in.plan(files)
}

// movesData reports whether the settings name another data directory than the
// configuration does.
func (in *Installer) movesData(o Options) (bool, error) {
	if !slices.ContainsFunc(o.Settings, func(s Setting) bool { return s.Key == "dataDir" }) {
		return false, nil
	}
	old, err := in.read(in.Product.Config)
	if err != nil {
		return false, err
	}
	var before struct {
		DataDir string `yaml:"dataDir"`
	}
	if err := yaml.Unmarshal(old, &before); err != nil {
		return false, fmt.Errorf("reading %s: %w", in.Product.Config, err)
	}
	return o.DataDir != cmp.Or(before.DataDir, in.dataDir()), nil
}

func (in *Installer) replacesProgram(plans []planned) bool {
	return slices.ContainsFunc(plans, func(p planned) bool { return p.source != "" && p.verdict == update })
}

// apply writes what was planned, and makes the account and the data directory.
func (in *Installer) apply(ctx context.Context, o Options, plans []planned) error {
	if err := in.write(plans); err != nil {
		return err
	}
	if o.DataDir == in.Product.DataDir {
		if _, ok := in.manifest.Files[in.dropInPath()]; ok {
			if _, err := in.remove(in.dropInPath()); err != nil {
				return err
			}
			in.manifest.Restart = true
		}
	}
	if err := in.prepare(ctx); err != nil {
		return err
	}
	if err := in.makeDataDir(o.DataDir); err != nil {
		return err
	}
	if err := in.keepPackage(o.Package); err != nil {
		return err
	}
	in.manifest.Version = in.Version
	return in.save()
}

// prepare makes the accounts. A package's scripts did that.
func (in *Installer) prepare(ctx context.Context) error {
	if in.packaged {
		return nil
	}
	if in.Product.scripts != "" {
		if err := in.Host.Script(ctx, in.Out, in.Product.script("setup-user", false)); err != nil {
			// The unit runs it again at every start.
			in.say("warning: %v", err)
		}
		return nil
	}
	return in.makeAccount(ctx)
}

func (in *Installer) makeAccount(ctx context.Context) error {
	name := in.Product.Name
	if _, err := in.Host.Query(ctx, "id", "-u", name); err == nil {
		return nil
	}
	in.say("create  account %s", name)
	add := []string{"useradd", "--system", "--user-group", "--home-dir", in.Product.DataDir, "--no-create-home", "--shell", "/usr/sbin/nologin", name}
	if !in.Host.Has("useradd") {
		// That of busybox.
		if err := in.Host.Run(ctx, "addgroup", "-S", name); err != nil {
			return fmt.Errorf("creating the group %s: %w", name, err)
		}
		add = []string{"adduser", "-S", "-D", "-H", "-G", name, "-h", in.Product.DataDir, "-s", "/sbin/nologin", name}
	}
	if err := in.Host.Run(ctx, add...); err != nil {
		return fmt.Errorf("creating the account %s: %w", name, err)
	}
	return nil
}

// keepPackage stores the file that was installed, so that a later upgrade can be
// undone without a network.
func (in *Installer) keepPackage(path string) error {
	if path == "" {
		return nil
	}
	if err := in.mkdirAll(in.dir()); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("keeping the package: %w", err)
	}
	defer f.Close()
	return in.keep(f, in.keptPackage(path))
}

func (in *Installer) keep(r io.Reader, kept string) (err error) {
	in.manifest.Package, in.manifest.PackageProgram = "", "" // while it is replaced
	if err := in.save(); err != nil {
		return err
	}
	if err := in.Host.Put(kept, r, 0o600); err != nil {
		return err
	}
	in.manifest.Package = kept
	if in.manifest.PackageProgram, err = in.sum(in.program()); err != nil {
		return err
	}
	return in.save()
}

func (in *Installer) keptPackage(path string) string {
	if strings.HasSuffix(path, ".rpm") {
		return in.dir("package.rpm")
	}
	return in.dir("package.deb")
}
