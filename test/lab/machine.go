//go:build linux

package lab

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fleet.nationtech.io/fleet/test/disk"
)

// Accounts and directories of a device that packaging/libexec/setup-user creates.
const (
	// AgentUser runs fleet-agent.
	AgentUser = "fleet-agent"
	// WorkloadUser runs rootless podman.
	WorkloadUser = "fleet-workload"
)

const (
	bootTimeout = 60 * time.Second
	stopTimeout = 30 * time.Second
	// sigPowerOff asks systemd to power off: SIGRTMIN+4 of glibc.
	sigPowerOff = syscall.Signal(34 + 4)
)

//go:embed boot.sh
var bootScript string

// Config describes a machine.
type Config struct {
	// Name is the host name, unique in the lab: up to 40 lower-case letters,
	// digits and '-'.
	Name string
	// Suite is Trixie (the default) or Bookworm.
	Suite string
	// Packages is what the machine has beside Debian's essential packages;
	// default: what devices and tests need.
	Packages []string
	// Network is where the machine gets an address; nil shares the host's
	// network, so that a published port is a port of the host.
	Network *Network
	// Binds are directories or files of the host that the machine sees.
	Binds []Bind
	// Disk is the size in bytes of a disk of its own that holds what the agent and podman
	// keep, on which a power cut loses what did not reach it; 0 for a part of the host's.
	Disk int64
	// Detached lets the machine outlive this process: Release lets go of it,
	// and Attach finds it again. It needs the host's network.
	Detached bool
}

// Bind is a directory or file of the host at a place in a machine.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

func (b Bind) option() string {
	if b.ReadOnly {
		return "--bind-ro=" + b.Source + ":" + b.Target
	}
	return "--bind=" + b.Source + ":" + b.Target
}

// Machine is a booted machine, or one that was stopped and can boot again.
// Calls that change its state must not overlap.
type Machine struct {
	// Name is the machine's host name.
	Name string
	// Link is the machine's place in its Network, nil in the host's network.
	Link *Namespace

	lab   *Lab
	root  *Root
	binds []Bind
	slot  *slot
}

// Boot creates a machine and waits until its systemd has started everything.
// A machine that does not come up is removed again.
func (l *Lab) Boot(ctx context.Context, c Config) (*Machine, error) {
	if c.Detached && len(c.Packages) > 0 {
		return nil, fmt.Errorf("booting %s: a detached machine has the default packages", c.Name)
	}
	if c.Detached && c.Network != nil {
		return nil, fmt.Errorf("booting %s: a detached machine cannot be in a network, which ends with this process", c.Name)
	}
	if c.Suite == "" {
		c.Suite = Trixie
	}
	root, err := l.Root(ctx, c.Suite, c.Packages...)
	if err != nil {
		return nil, err
	}
	s, err := l.createSlot(c.Name, c.Detached)
	if err != nil {
		return nil, err
	}
	m := &Machine{Name: c.Name, lab: l, root: root, binds: c.Binds, slot: s}
	if err := m.create(ctx, c); err != nil {
		return nil, errors.Join(fmt.Errorf("booting %s: %w", c.Name, err), m.Destroy(context.WithoutCancel(ctx)))
	}
	return m, nil
}

// Attach finds a detached machine, running or stopped. It fails with
// ErrNotFound or ErrInUse.
func (l *Lab) Attach(ctx context.Context, name string) (*Machine, error) {
	s, err := l.attachSlot(name)
	if err != nil {
		return nil, err
	}
	m, err := l.attach(ctx, s)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attaching to %s: %w", name, err), s.release())
	}
	return m, nil
}

func (l *Lab) attach(ctx context.Context, s *slot) (*Machine, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, savedFile))
	if err != nil {
		return nil, err
	}
	var c saved
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("parsing %s: %w", savedFile, err)
	}
	root, err := l.Root(ctx, c.Suite)
	if err != nil {
		return nil, err
	}
	return &Machine{Name: s.name, lab: l, root: root, binds: c.Binds, slot: s}, nil
}

// Ensure returns the detached machine of that name, running: as it is, started,
// or booted anew.
func (l *Lab) Ensure(ctx context.Context, c Config) (*Machine, error) {
	m, err := l.Attach(ctx, c.Name)
	if errors.Is(err, ErrNotFound) {
		return l.Boot(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	if m.Running() {
		return m, nil
	}
	if err := m.Start(ctx); err != nil {
		return nil, errors.Join(err, m.Release())
	}
	return m, nil
}

const (
	// savedFile holds, in the machine's directory, what Attach needs of its Config.
	savedFile = "machine.json"
	// diskFile is the image of the disk that has the homes, if they have one.
	diskFile = "disk"
)

type saved struct {
	Suite string `json:"suite"`
	Binds []Bind `json:"binds,omitempty"`
}

func (m *Machine) create(ctx context.Context, c Config) error {
	if err := m.prepareDir(); err != nil {
		return err
	}
	if c.Disk > 0 {
		if err := disk.Format(ctx, m.path(diskFile), c.Disk, m.path("homes")); err != nil {
			return fmt.Errorf("making the machine's disk: %w", err)
		}
	}
	if c.Network != nil {
		link, err := c.Network.Join(ctx)
		if err != nil {
			return err
		}
		m.Link = link
	}
	return m.Start(ctx)
}

// prepareDir lays out the machine's directory. Homes are real directories:
// podman's own overlay cannot lie on the overlay of the root.
func (m *Machine) prepareDir() error {
	for _, d := range []string{"upper/etc", "work", "root", "homes/" + AgentUser, "homes/" + WorkloadUser} {
		if err := os.MkdirAll(m.path(d), 0o755); err != nil {
			return fmt.Errorf("creating the machine's directory: %w", err)
		}
	}
	config, err := json.Marshal(saved{Suite: m.root.Suite, Binds: m.binds})
	if err != nil {
		return fmt.Errorf("encoding the machine's configuration: %w", err)
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	files := map[string]string{
		savedFile:               string(config),
		"upper/etc/machine-id":  hex.EncodeToString(id) + "\n",
		"upper/etc/hostname":    m.Name + "\n",
		"upper/etc/hosts":       "127.0.0.1 localhost " + m.Name + "\n::1 localhost\n",
		"upper/etc/resolv.conf": "",
	}
	for name, content := range files {
		if err := os.WriteFile(m.path(name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("creating the machine's directory: %w", err)
		}
	}
	return nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.slot.dir, name) }

// Address is where the host, or the other members of its network, reach the
// machine.
func (m *Machine) Address() netip.Addr {
	if m.Link != nil {
		return m.Link.Addr
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Running reports whether the machine's systemd lives.
func (m *Machine) Running() bool {
	_, err := m.leader()
	return err == nil
}

// Start boots a machine that is off.
func (m *Machine) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := m.spawn(ctx); err != nil {
		return fmt.Errorf("starting %s: %w", m.Name, err)
	}
	if err := poll(ctx, func() (bool, error) { return m.up(ctx) }); err != nil {
		return fmt.Errorf("waiting for %s to boot: %w%s", m.Name, err, m.consoleTail())
	}
	return nil
}

// spawn starts the supervisor in the machine's cgroup. setsid --fork makes it
// independent of this process.
func (m *Machine) spawn(ctx context.Context) error {
	if err := m.slot.group.create(); err != nil {
		return err
	}
	group, err := os.Open(string(m.slot.group))
	if err != nil {
		return fmt.Errorf("opening the cgroup: %w", err)
	}
	defer group.Close()
	console, err := os.OpenFile(m.path("console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the console log: %w", err)
	}
	defer console.Close()
	cmd := exec.CommandContext(ctx, "setsid", m.supervisorArgs()...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	return cmd.Run()
}

func (m *Machine) supervisorArgs() []string {
	args := []string{
		"--fork", "unshare", "--mount", "--propagation", "private",
		"sh", "-c", bootScript, "boot.sh", m.root.dir, m.slot.dir, m.Name, filepath.Base(string(m.slot.group)),
		Bind{Source: m.path("homes/" + AgentUser), Target: "/var/lib/" + AgentUser}.option(),
		Bind{Source: m.path("homes/" + WorkloadUser), Target: "/var/lib/" + WorkloadUser}.option(),
	}
	for _, b := range m.binds {
		args = append(args, b.option())
	}
	if m.Link != nil {
		args = append(args, "--network-namespace-path="+m.Link.path())
	}
	return args
}

// up reports whether the machine has booted.
func (m *Machine) up(ctx context.Context) (bool, error) {
	if !m.slot.group.populated() {
		return false, errors.New("its supervisor ended")
	}
	leader, err := m.leader()
	if err != nil {
		return false, nil // not there yet
	}
	r, err := execute(ctx, nil, enter(leader, "systemctl", "is-system-running"))
	if err != nil {
		return false, err
	}
	switch strings.TrimSpace(r.Stdout) { // printed whatever the exit status is
	case "running", "degraded":
		return true, nil
	}
	return false, nil
}

// leader returns the machine's PID 1: the process in its init.scope that has
// that number in the innermost pid namespace. It is looked up each time, since
// a machine can reboot by itself.
func (m *Machine) leader() (int, error) {
	pids, err := m.slot.group.processes("box/payload/init.scope")
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if isInit(pid) {
			return pid, nil
		}
	}
	return 0, fs.ErrNotExist
}

func isInit(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(pids)
			return fields[len(fields)-1] == "1"
		}
	}
	return false
}

// Stop powers the machine off in the ordinary way. It can Start again.
func (m *Machine) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if leader, err := m.leader(); err == nil {
		if err := syscall.Kill(leader, sigPowerOff); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stopping %s: %w", m.Name, err)
		}
	}
	if err := m.slot.group.waitEmpty(ctx); err != nil {
		return fmt.Errorf("waiting for %s to power off: %w%s", m.Name, err, m.consoleTail())
	}
	return m.slot.group.remove(ctx)
}

// PowerCut kills the supervisor and every process of the machine at once. A disk of
// its own loses what did not reach it; otherwise what the machine had written stays,
// since the host's page cache does. It can Start again.
func (m *Machine) PowerCut(ctx context.Context) error {
	if err := m.cut(ctx); err != nil {
		return fmt.Errorf("cutting the power of %s: %w", m.Name, err)
	}
	return m.slot.group.remove(ctx)
}

func (m *Machine) cut(ctx context.Context) error {
	if _, err := os.Stat(m.path(diskFile)); err != nil {
		return m.slot.group.kill(ctx)
	}
	if err := m.slot.group.freeze(ctx); err != nil {
		return err
	}
	taken := m.path("taken")
	if err := disk.Take(ctx, m.path(diskFile), taken); err != nil {
		return errors.Join(err, m.slot.group.kill(ctx))
	}
	// The last process ends the mount, which writes what it still has to the image
	// that was.
	if err := m.slot.group.kill(ctx); err != nil {
		return err
	}
	return os.Rename(taken, m.path(diskFile))
}

// Reboot stops and starts the machine.
func (m *Machine) Reboot(ctx context.Context) error {
	if err := m.Stop(ctx); err != nil {
		return err
	}
	return m.Start(ctx)
}

// Destroy ends the machine without ceremony and removes all that it left.
func (m *Machine) Destroy(ctx context.Context) error {
	if m.Link != nil {
		m.Link.Close()
	}
	return m.slot.destroy(ctx)
}

// Release lets go of a detached machine, which goes on.
func (m *Machine) Release() error { return m.slot.release() }

// consoleTail returns the last lines that the machine's supervisor printed.
func (m *Machine) consoleTail() string {
	const tail = 400
	log, err := os.ReadFile(m.path("console.log"))
	if err != nil || len(log) == 0 {
		return ""
	}
	return ": " + strings.TrimSpace(string(log[max(0, len(log)-tail):]))
}
