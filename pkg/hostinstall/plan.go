package hostinstall

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/settings"
)

// step is one thing that a plan does to the host.
type step interface {
	// String says what it does; a dry run prints that of some.
	String() string
}

// The steps. They are values, so that a test can compare plans; Installer.do
// carries them out.
type (
	// writeFile creates or changes a file, or leaves it alone, as its verdict says.
	writeFile struct{ planned }
	// removeFile removes a file unless somebody edited it. With restart the service
	// has to begin anew without it.
	removeFile struct {
		path    string
		restart bool
	}
	// makeAccounts makes the accounts that the product runs as.
	makeAccounts struct{}
	// makeDataDir makes the data directory, for the account alone.
	makeDataDir struct{ dir string }
	// storePackage keeps the file of the package for the way back.
	storePackage struct{ path string }
	// recordVersion writes down that a version is installed.
	recordVersion struct{ version string }

	// endService stops the service, for good if no package has it.
	endService struct{ packaged bool }
	// dropUpgrade: what is installed later has nothing to do with an upgrade of today.
	dropUpgrade struct{}
	// endAccounts ends what the product's other accounts run, and with purge removes
	// what they have.
	endAccounts struct {
		script         string
		purge, volumes bool
	}
	// dropPackage removes the file of the package that was kept.
	dropPackage struct{}
	// emptyDir removes a directory but for mount points.
	emptyDir struct{ dir string }
	// dropDataDir records that there is no data directory any more.
	dropDataDir struct{}
	// reloadUnits makes systemd read units again.
	reloadUnits struct{}
	// removeDirs removes directories that were made here and are empty.
	removeDirs struct{}
	// forgetProduct removes the manifest, and forgetVersion what it says of versions.
	forgetProduct struct{}
	forgetVersion struct{}
)

func (s writeFile) String() string {
	switch s.verdict {
	case create:
		return "create  " + s.path + s.detail
	case update:
		return "change  " + s.path + s.detail
	case edited:
		return "keep    " + s.path + ", which was edited"
	case kept:
		return "KEEP    " + s.path + ", which is not as it was installed; it should become" + s.wish()
	}
	return "leave   " + s.path
}

func (s removeFile) String() string    { return "remove  " + s.path }
func (s makeAccounts) String() string  { return "make the accounts" }
func (s makeDataDir) String() string   { return "make    " + s.dir }
func (s storePackage) String() string  { return "store   " + s.path }
func (s recordVersion) String() string { return "record  version " + s.version }
func (s endService) String() string {
	if s.packaged {
		return "stop the service"
	}
	return "stop and disable the service"
}
func (s dropUpgrade) String() string { return "forget an upgrade that is under way" }
func (s endAccounts) String() string {
	return fmt.Sprintf("run     %s, purge %t, volumes %t", s.script, s.purge, s.volumes)
}
func (s dropPackage) String() string   { return "remove the package that was kept" }
func (s emptyDir) String() string      { return "remove  " + s.dir }
func (s dropDataDir) String() string   { return "forget the data directory" }
func (s reloadUnits) String() string   { return "reload units" }
func (s removeDirs) String() string    { return "remove empty directories" }
func (s forgetProduct) String() string { return "forget the installation" }
func (s forgetVersion) String() string { return "forget the version" }

// plan is what is about to happen.
type plan struct {
	steps []step
	// replaces: a program that is there is replaced, so there has to be a way back.
	replaces bool
}

// incomplete returns an error if files of somebody else are in the way.
func (p *plan) incomplete() error {
	if slices.ContainsFunc(p.steps, func(s step) bool { w, ok := s.(writeFile); return ok && w.verdict == kept }) {
		return ErrKept
	}
	return nil
}

// written are the files that a plan creates or changes.
func (p *plan) written() []string {
	var paths []string
	for _, s := range p.steps {
		if w, ok := s.(writeFile); ok && (w.verdict == create || w.verdict == update) {
			paths = append(paths, w.path)
		}
	}
	return paths
}

// files are what a plan does to files, but for those that are as they should be.
// People are told before it begins.
func (p *plan) files() []string {
	var lines []string
	for _, s := range p.steps {
		if w, ok := s.(writeFile); ok && w.verdict != same {
			lines = append(lines, w.String())
		}
	}
	return lines
}

// wanted are the files that the host should have, and the source of the program.
func (f *facts) wanted(o Options, program string) ([]file, error) {
	var files []file
	if !f.packaged {
		own, err := f.product.unpackaged(program, f.booted)
		if err != nil {
			return nil, err
		}
		files = own
	}
	if len(o.Settings) > 0 {
		config, err := f.configuration(o.Settings)
		if err != nil {
			return nil, err
		}
		if config != nil {
			files = append(files, *config)
		}
	}
	if d := f.dropIn(o.DataDir); d != nil {
		files = append(files, *d)
	}
	return files, nil
}

// planInstall plans an installation of a version with these files.
func (f *facts) planInstall(o Options, version string, files []planned) (plan, error) {
	var p plan
	for _, w := range files {
		if w.source != "" && w.verdict == kept {
			return p, fmt.Errorf("%s was not installed by this program: move it away, then run this again: %w", w.path, ErrRefused)
		}
		p.replaces = p.replaces || w.source != "" && w.verdict == update
		p.steps = append(p.steps, writeFile{w})
	}
	moves, err := f.movesData(o)
	if err != nil {
		return p, err
	}
	if moves && p.replaces {
		return p, fmt.Errorf("the data directory and the version cannot change at once, since there would be no way back: run %s install --data-dir %s first, then the upgrade: %w",
			f.product.program(f.packaged), o.DataDir, ErrRefused)
	}
	if p.replaces {
		if err := o.refuseOlder(version, f.manifest.Version); err != nil {
			return p, err
		}
	}
	if _, there := f.manifest.Files[f.product.dropInPath()]; there && o.DataDir == f.product.DataDir {
		p.steps = append(p.steps, removeFile{path: f.product.dropInPath(), restart: true})
	}
	if !f.packaged {
		p.steps = append(p.steps, makeAccounts{})
	}
	if o.DataDir != "" {
		p.steps = append(p.steps, makeDataDir{o.DataDir})
	}
	if o.Package != "" {
		p.steps = append(p.steps, storePackage{o.Package})
	}
	p.steps = append(p.steps, recordVersion{version})
	return p, nil
}

// movesData reports whether the settings name another data directory than the
// configuration does.
func (f *facts) movesData(o Options) (bool, error) {
	if !slices.ContainsFunc(o.Settings, func(c settings.Change) bool { return c.Key == "dataDir" }) {
		return false, nil
	}
	before, err := f.configuredDataDir()
	return o.DataDir != before, err
}

// configuration returns the file that says what the settings say, with all else
// and all comments as they are, or nil when it says so already.
func (f *facts) configuration(wanted []settings.Change) (*file, error) {
	content, changes, err := settings.Edit(f.config, wanted...)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.product.Config, err)
	}
	if len(changes) == 0 {
		return nil, nil
	}
	var said []string
	for _, c := range changes {
		said = append(said, c.String())
	}
	return &file{path: f.product.Config, mode: 0o644, content: content, detail: ": " + strings.Join(said, ", ")}, nil
}

// planRemoval plans an uninstallation. The program goes last: without it nothing
// could be run again.
func (f *facts) planRemoval(r Removal) plan {
	steps := []step{endService{f.packaged}, dropUpgrade{}}
	if f.product.scripts != "" && (!f.packaged || r.Purge) {
		steps = append(steps, endAccounts{f.product.script("cleanup-user", f.packaged), r.Purge, r.Volumes})
	}
	for _, path := range slices.Sorted(maps.Keys(f.manifest.Files)) {
		if path != f.product.Program() && (path != f.product.Config || r.Purge) {
			steps = append(steps, removeFile{path: path})
		}
	}
	steps = append(steps, dropPackage{})
	if r.Purge {
		steps = append(steps, emptyDir{f.product.dir()})
		if f.product.Backup {
			steps = append(steps, emptyDir{f.dataDir()})
		}
		steps = append(steps, dropDataDir{})
	}
	if f.booted {
		steps = append(steps, reloadUnits{})
	}
	steps = append(steps, removeDirs{})
	if _, there := f.manifest.Files[f.product.Program()]; there {
		steps = append(steps, removeFile{path: f.product.Program()})
	}
	if r.Purge {
		return plan{steps: append(steps, forgetProduct{})}
	}
	return plan{steps: append(steps, forgetVersion{})}
}

// announced are the lines about a removal, for a dry run.
func (f *facts) announced(p plan, r Removal) []string {
	var lines []string
	for _, s := range p.steps {
		if s, ok := s.(removeFile); ok {
			lines = append(lines, s.String())
		}
	}
	slices.Sort(lines)
	if r.Purge {
		lines = append(lines, emptyDir{f.dataDir()}.String()+" and all that is in it")
	}
	return lines
}
