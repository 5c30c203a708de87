package hostinstall_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a host below a directory, with a systemd that starts a program if
// its content says that it works.
type machine struct {
	hostinstall.OS
	t *testing.T

	packaged  bool     // dpkg owns /usr/bin/fleet-server
	mounts    []string // of the machine
	accounts  []string
	groups    []string
	enabled   bool
	held      bool // a condition of the unit is not met
	active    bool
	starts    int
	installed []string // packages, in order
	locked    bool     // somebody else installs packages
	free      uint64
	readOnly  string   // what begins with it cannot be written; empty for nothing
	cleanups  []string // what cleanup-user was told
	// started, if it is set, is told when a program has started, or failed to.
	started func(program string)
}

const (
	program  = "/usr/local/bin/fleet-server"
	packaged = "/usr/bin/fleet-server"
	config   = "/etc/fleet-server/config.yaml"
	unit     = "/etc/systemd/system/fleet-server.service"
	data     = "/var/lib/fleet-server"
)

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{OS: hostinstall.OS{Root: t.TempDir()}, t: t, free: 1 << 40}
	for _, dir := range []string{"/run/systemd/system", "/etc/systemd/system", "/var/lib", "/usr/local/bin", "/usr/bin", "/srv"} {
		m.mkdir(dir)
	}
	return m
}

func (m *machine) mkdir(path string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Join(m.Root, path), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(path, content string) {
	m.t.Helper()
	m.mkdir(filepath.Dir(path))
	if err := os.WriteFile(filepath.Join(m.Root, path), []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	content, err := os.ReadFile(filepath.Join(m.Root, path))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return string(content)
}

// tree is every file with its content, but for what only the installer reads.
func (m *machine) tree() map[string]string {
	m.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(m.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path = strings.TrimPrefix(path, m.Root)
		switch {
		case path == "/var/lib/fleet-install":
			return fs.SkipDir
		case d.IsDir():
			files[path+"/"] = ""
		default:
			files[path] = m.read(path)
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return files
}

func (m *machine) Mounts() ([]string, error) {
	return m.mounts, nil
}

func (m *machine) Free(string) (uint64, error) { return m.free, nil }
func (m *machine) ReadOnly(path string) bool {
	return m.readOnly != "" && strings.HasPrefix(path, m.readOnly)
}
func (m *machine) Has(name string) bool {
	return slices.Contains([]string{"useradd", "groupadd", "dpkg-query"}, name)
}
func (m *machine) Own(string, string, fs.FileMode) error { return nil }
func (m *machine) Run(_ context.Context, args ...string) error {
	switch {
	case args[0] == "groupadd":
		m.groups = append(m.groups, strings.Join(args[2:], " "))
	case args[0] == "useradd":
		m.accounts = append(m.accounts, args[len(args)-1])
	case slices.Contains(args, "apt-get"), slices.Contains(args, "dpkg"):
		return m.install(args[len(args)-1])
	case args[0] == "systemctl":
		return m.systemctl(args[1:])
	default:
		m.t.Errorf("it ran %q", args)
	}
	return nil
}

var errLocked = errors.New("could not get lock")

func (m *machine) Script(_ context.Context, out io.Writer, args ...string) error {
	switch {
	case strings.HasSuffix(args[0], "setup-user"):
		m.accounts = append(m.accounts, "fleet-agent", "fleet-workload")
	case strings.HasSuffix(args[0], "cleanup-user"), strings.HasSuffix(args[min(2, len(args)-1)], "cleanup-user"):
		m.cleanups = append(m.cleanups, strings.Join(slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "env" || strings.HasPrefix(a, "/") }), " "))
	default:
		m.t.Errorf("it ran %q", args)
	}
	_, err := io.WriteString(out, "a word from "+filepath.Base(args[len(args)-1])+"\n")
	return err
}

// install puts the content of a package into the place of the program.
func (m *machine) install(path string) error {
	if m.locked {
		return errLocked
	}
	content, err := os.ReadFile(path)
	if err != nil {
		content, err = os.ReadFile(filepath.Join(m.Root, path)) // one that was kept
	}
	if err != nil {
		return err
	}
	m.installed = append(m.installed, string(content))
	m.write(packaged, string(content))
	return nil
}

func (m *machine) systemctl(args []string) error {
	switch args[0] {
	case "enable":
		m.enabled = true
	case "disable":
		m.enabled, m.active = false, false
	case "stop":
		if !strings.HasPrefix(args[1], "user@") {
			m.active = false
		}
	case "restart":
		return m.restart()
	}
	return nil
}

// restart runs the program, which works on its data before it fails.
func (m *machine) restart() error {
	m.starts++
	content := m.read(program)
	if m.packaged {
		content = m.read(packaged)
	}
	m.write(m.dataDir()+"/state.db", "written by "+content)
	m.active = !strings.Contains(content, "broken") && !m.held
	if m.started != nil {
		m.started(content)
	}
	if strings.Contains(content, "broken") {
		return errors.New("job failed")
	}
	return nil
}

func (m *machine) dataDir() string {
	for line := range strings.Lines(m.read(config)) {
		if dir, ok := strings.CutPrefix(line, "dataDir: "); ok {
			return strings.TrimSpace(dir)
		}
	}
	return data
}

func (m *machine) Query(_ context.Context, args ...string) (string, error) {
	says := func(yes bool, text, otherwise string) (string, error) {
		if yes {
			return text + "\n", nil
		}
		return otherwise + "\n", errors.New("exit status 3")
	}
	switch strings.Join(args[:2], " ") {
	case "dpkg-query --search":
		return says(m.packaged && args[2] == packaged, "fleet-server: "+packaged, "")
	case "dpkg-deb --field":
		return m.versions(args[2], "")
	case "dpkg-query --show":
		return m.versions("", packaged)
	case "systemctl is-active":
		return says(m.active, "active", "inactive")
	case "systemctl is-enabled":
		return says(m.enabled, "enabled", "disabled")
	case "id -g":
		return says(slices.Contains(m.accounts, args[2]), "998", "")
	case "getent group":
		return says(slices.ContainsFunc(m.groups, func(g string) bool { return strings.HasSuffix(g, args[2]) }), args[2]+":x:998:", "")
	}
	m.t.Errorf("it asked %q", args)
	return "", nil
}

// versions reads the version of a package, vVERSION, outside of the machine or in
// it.
func (m *machine) versions(outside, path string) (string, error) {
	if path != "" {
		outside = filepath.Join(m.Root, path)
	}
	content, err := os.ReadFile(outside)
	if err != nil {
		return "", err
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(string(content), "v"), ",")
	return version + "\n", nil
}

var errPowerCut = errors.New("power cut")

// faulty is a machine whose power is cut at its n-th change.
type faulty struct {
	*machine
	left int
}

func (f *faulty) cut() error {
	if f.left <= 0 {
		return errPowerCut
	}
	f.left--
	return nil
}

func (f *faulty) Put(path string, content io.Reader, mode fs.FileMode) error {
	if err := f.cut(); err != nil {
		f.write(filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path)+"-7XQ"), "the first part of it") // as atomicfile does
		return err
	}
	return f.machine.Put(path, content, mode)
}

func (f *faulty) Mkdir(path string, mode fs.FileMode) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.Mkdir(path, mode)
}

func (f *faulty) Own(path, account string, mode fs.FileMode) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.Own(path, account, mode)
}

func (f *faulty) Remove(path string) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.Remove(path)
}

func (f *faulty) Run(ctx context.Context, args ...string) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.Run(ctx, args...)
}

func (f *faulty) Script(ctx context.Context, out io.Writer, args ...string) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.Script(ctx, out, args...)
}

func (f *faulty) CopyTree(from, to string, skip func(string) bool) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.CopyTree(from, to, skip)
}

func (f *faulty) ReplaceTree(saved, dir string, skip func(string) bool) error {
	if err := f.cut(); err != nil {
		return err
	}
	return f.machine.ReplaceTree(saved, dir, skip)
}

func (f *faulty) EmptyTree(dir string, keep func(string) bool) ([]string, error) {
	if err := f.cut(); err != nil {
		return nil, err
	}
	return f.machine.EmptyTree(dir, keep)
}

// release is a program of a version, outside the machine.
func release(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet-server.deb")
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// installer runs a program on a host.
func installer(h hostinstall.Host, program string) (*hostinstall.Installer, *bytes.Buffer) {
	var out bytes.Buffer
	return &hostinstall.Installer{Host: h, Product: hostinstall.Server, Program: program, Version: filepath.Base(program), Out: &out}, &out
}
