package hostinstall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/settings"
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

	ledger
	backup   backup
	service  service
	packaged bool
}

// Options are what an operator decides about an installation.
type Options struct {
	// Settings go into the configuration file.
	Settings []settings.Change
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

// begin finds out what is there.
func (in *Installer) begin(ctx context.Context) error {
	in.ledger = ledger{host: in.Host, name: in.Product.Name, out: in.Out}
	in.backup = backup{&in.ledger, &in.Product}
	if err := in.load(); err != nil {
		return err
	}
	_, err := in.Host.Lstat("/run/systemd/system")
	in.service = service{host: in.Host, name: in.Product.Name, unit: in.Product.unit(), booted: err == nil}
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
	p, err := in.plan(o)
	if err != nil {
		return err
	}
	in.show(p)
	if in.DryRun {
		return nil
	}
	if p.replaces || in.manifest.Upgrade != nil {
		err = in.upgrade(ctx, o, func(ctx context.Context) error { return in.doAll(ctx, p.steps) }, in.restoreFiles)
	} else if err = in.doAll(ctx, p.steps); err == nil {
		err = in.start(ctx, o)
	}
	if err != nil {
		return err
	}
	return p.incomplete()
}

// plan looks at the host and plans an installation.
func (in *Installer) plan(o Options) (plan, error) {
	f := in.known()
	if err := f.refusePath(o.DataDir); err != nil {
		return plan{}, err
	}
	f, err := in.look(o.DataDir)
	if err != nil {
		return plan{}, err
	}
	if err := f.refuseContent(o.DataDir); err != nil {
		return plan{}, err
	}
	files, err := f.wanted(o, in.Program)
	if err != nil {
		return plan{}, err
	}
	measured, err := in.measure(files)
	if err != nil {
		return plan{}, err
	}
	p, err := f.planInstall(o, in.Version, measured)
	if err != nil {
		return plan{}, err
	}
	return p, in.refuseReadOnly(p)
}

// refuseReadOnly returns an error for a file that could not be written: half an
// installation helps nobody.
func (in *Installer) refuseReadOnly(p plan) error {
	for _, path := range append(p.written(), stateDir) {
		if in.Host.ReadOnly(path) {
			return fmt.Errorf("%s is on a file system that is read-only: make it writable, then run this again: %w", path, ErrRefused)
		}
	}
	return nil
}

// show says what is about to happen to files.
func (in *Installer) show(p plan) {
	for _, line := range p.files() {
		in.say("%s", line)
	}
}

// makeAccounts makes the accounts of a product that no package installed.
func (in *Installer) makeAccounts(ctx context.Context) error {
	if in.Product.scripts == "" {
		return in.makeAccount(ctx)
	}
	if err := in.Host.Script(ctx, in.Out, in.Product.script("setup-user", false)); err != nil {
		// The unit runs it again at every start.
		in.say("warning: %v", err)
	}
	return nil
}

func (in *Installer) makeAccount(ctx context.Context) error {
	name := in.Product.Name
	gid, err := in.Host.Query(ctx, "id", "-g", name)
	exists := err == nil
	if err := in.makeGroup(ctx, strings.TrimSpace(gid)); err != nil || exists {
		return err
	}
	in.say("create  account %s", name)
	add := []string{"useradd", "--system", "--gid", name, "--home-dir", in.Product.DataDir, "--no-create-home", "--shell", "/usr/sbin/nologin", name}
	if !in.Host.Has("useradd") {
		// That of busybox.
		add = []string{"adduser", "-S", "-D", "-H", "-G", name, "-h", in.Product.DataDir, "-s", "/sbin/nologin", name}
	}
	if err := in.Host.Run(ctx, add...); err != nil {
		return fmt.Errorf("creating the account %s: %w", name, err)
	}
	return nil
}

// makeGroup makes the group of the account. A power cut can leave the account
// without it, and then gid is the id that it has to have.
func (in *Installer) makeGroup(ctx context.Context, gid string) error {
	name := in.Product.Name
	if _, err := in.Host.Query(ctx, "getent", "group", name); err == nil {
		return nil
	}
	add, option := []string{"groupadd", "--system"}, "--gid"
	if !in.Host.Has("groupadd") {
		add, option = []string{"addgroup", "-S"}, "-g"
	}
	if gid != "" {
		add = append(add, option, gid)
	}
	if err := in.Host.Run(ctx, append(add, name)...); err != nil {
		return fmt.Errorf("creating the group %s: %w", name, err)
	}
	return nil
}

// keepPackage stores the file that was installed, so that a later upgrade can be
// undone without a network.
func (in *Installer) keepPackage(path string) error {
	if err := in.mkdirAll(in.Product.dir()); err != nil {
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
	if in.manifest.PackageProgram, err = in.sum(in.Product.program(in.packaged)); err != nil {
		return err
	}
	return in.save()
}

func (in *Installer) keptPackage(path string) string {
	if strings.HasSuffix(path, ".rpm") {
		return in.Product.dir("package.rpm")
	}
	return in.Product.dir("package.deb")
}
