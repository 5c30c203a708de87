//go:build linux

package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/test/wait"
)

const (
	uri = "qemu:///system"
	// namePrefix begins the names of what a site makes.
	namePrefix = "fleet-vm-"
	// The network of a site; the gateway is .1.
	subnet = "10.86.31."
	// poolsDir is where every libvirt may read, whatever account its qemu has.
	poolsDir = "/var/lib/libvirt/images"

	daemonTimeout = 30 * time.Second
	stopTimeout   = 15 * time.Second
	pollInterval  = 200 * time.Millisecond
)

// Options say what a site is made of.
type Options struct {
	// Dir keeps images from one run to the next.
	Dir string
	// Suite is Debian's: bookworm.
	Suite string
	// Arch is amd64 or arm64; another than the host's is emulated.
	Arch string
	// Progress receives a line for each step that takes long.
	Progress io.Writer
}

// Site is a network of virtual machines.
type Site struct {
	// Accelerator is kvm, or qemu for emulation.
	Accelerator string
	// Gateway is the host's address in the network.
	Gateway string

	options   Options
	name      string
	namespace string // of the network, where libvirt is our own
	daemons   []*exec.Cmd
	pool, key string
	image     image
	machines  int
	cleanups  []func() error
}

// Open makes a site. Close removes it; Open itself does when it fails.
func Open(ctx context.Context, o Options) (*Site, error) {
	id := make([]byte, 2) // a bridge has the name, of at most 15 letters
	_, _ = rand.Read(id)  // never fails
	s := &Site{options: o, name: namePrefix + hex.EncodeToString(id), Gateway: subnet + "1"}
	for _, step := range []func(context.Context) error{
		s.lock, sweepNamespaces, s.findImage, s.findAccelerator, s.makeKey, s.connect, sweepLibvirt, s.makePool, s.makeNetwork,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("making virtual machines: %w", err), s.Close())
		}
	}
	return s, nil
}

// Close removes everything that the site made, the latest first.
func (s *Site) Close() error {
	var errs []error
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		errs = append(errs, s.cleanups[last]())
		s.cleanups = s.cleanups[:last]
	}
	return errors.Join(errs...)
}

// lock keeps a second site of the same cache out: they would have one subnet.
func (s *Site) lock(context.Context) error {
	if err := os.MkdirAll(s.options.Dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.options.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	s.cleanup(f.Close)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another run uses %s: %w", s.options.Dir, err)
	}
	return nil
}

func (s *Site) cleanup(f func() error) { s.cleanups = append(s.cleanups, f) }

func (s *Site) printf(format string, args ...any) {
	fmt.Fprintf(s.options.Progress, format+"\n", args...)
}

// Command builds a command that sees the site's network.
func (s *Site) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if s.namespace == "" {
		return exec.CommandContext(ctx, name, args...)
	}
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", s.namespace, name}, args...)...)
}

// tool runs a program and returns what it printed.
func tool(ctx context.Context, name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func virsh(ctx context.Context, args ...string) (string, error) {
	return tool(ctx, "virsh", append([]string{"--quiet", "--connect", uri}, args...)...)
}

// virshFinally is for what has to be removed although the test's context ended.
func virshFinally(args ...string) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		_, err := virsh(ctx, args...)
		return err
	}
}

// connect uses the libvirt that is there, or runs one.
func (s *Site) connect(ctx context.Context) error {
	if _, err := virsh(ctx, "version"); err == nil {
		return nil
	}
	s.namespace = s.name
	if _, err := tool(ctx, "ip", "netns", "add", s.namespace); err != nil {
		return err
	}
	s.cleanup(func() error {
		_, err := tool(context.Background(), "ip", "netns", "delete", s.namespace)
		return err
	})
	if _, err := tool(ctx, "ip", "-n", s.namespace, "link", "set", "lo", "up"); err != nil {
		return err
	}
	s.cleanup(s.stopDaemons)
	for _, daemon := range [][]string{{"virtlogd"}, s.libvirtd()} {
		// Beyond ctx, so that machines can be removed when it has ended.
		cmd := s.Command(context.WithoutCancel(ctx), daemon[0], daemon[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("starting %s: %w", daemon[0], err)
		}
		s.daemons = append(s.daemons, cmd)
	}
	return wait.Until(ctx, daemonTimeout, pollInterval, func() error {
		_, err := virsh(ctx, "version")
		return err
	})
}

// libvirtd hides a /dev/kvm that does not work: with it libvirt finds out anew,
// for every command, what qemu can do, which takes a minute. It cannot move the
// file into a /dev of the machine's own then, so machines get the host's.
func (s *Site) libvirtd() []string {
	if _, err := os.Stat("/dev/kvm"); err != nil || s.Accelerator == "kvm" {
		return []string{"libvirtd"}
	}
	const hidden = `cd "$1"; umask 077; : >no-kvm; echo 'namespaces = []' >qemu.conf
		mount --bind no-kvm /dev/kvm && mount --bind qemu.conf /etc/libvirt/qemu.conf && exec libvirtd`
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-euc", hidden, "sh", filepath.Dir(s.key)}
}

// stopDaemons also ends what the daemons started, such as the network's dnsmasq.
func (s *Site) stopDaemons() error {
	for i := len(s.daemons) - 1; i >= 0; i-- {
		cmd := s.daemons[i]
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // it may have ended
		kill := time.AfterFunc(stopTimeout, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait() // how it ends does not matter
		kill.Stop()
	}
	s.daemons = nil
	return nil
}

// makePool makes a pool and puts the image there.
func (s *Site) makePool(ctx context.Context) error {
	s.pool = filepath.Join(poolsDir, s.name)
	if err := os.MkdirAll(s.pool, 0o711); err != nil {
		return err
	}
	s.cleanup(func() error { return os.RemoveAll(s.pool) })
	for _, suffix := range imageFiles {
		if _, err := tool(ctx, "cp", "--sparse=always", s.image.path+suffix, filepath.Join(s.pool, "base"+suffix)); err != nil {
			return err
		}
	}
	if _, err := virsh(ctx, "pool-create-as", s.name, "dir", "--target", s.pool); err != nil {
		return err
	}
	s.cleanup(virshFinally("pool-destroy", s.name))
	return nil
}

func (s *Site) makeKey(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "fleet-vm-")
	if err != nil {
		return err
	}
	s.cleanup(func() error { return os.RemoveAll(dir) })
	s.key = filepath.Join(dir, "key")
	_, err = tool(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.key)
	return err
}

// makeNetwork makes a network without a way out: nothing that is tested needs
// the internet.
func (s *Site) makeNetwork(ctx context.Context) error {
	xml := fmt.Sprintf(`<network>
  <name>%s</name>
  <bridge name='%s' stp='off' delay='0'/>
  <ip address='%s' netmask='255.255.255.0'><dhcp><range start='%s11' end='%s99'/></dhcp></ip>
</network>`, s.name, s.name, s.Gateway, subnet, subnet)
	if err := s.define(ctx, "net-define", xml); err != nil {
		return err
	}
	s.cleanup(virshFinally("net-undefine", s.name))
	if _, err := virsh(ctx, "net-start", s.name); err != nil {
		return err
	}
	s.cleanup(virshFinally("net-destroy", s.name))
	return nil
}

// define hands a description to virsh.
func (s *Site) define(ctx context.Context, command, xml string) error {
	path := filepath.Join(s.pool, command+".xml")
	if err := os.WriteFile(path, []byte(xml), 0o600); err != nil {
		return err
	}
	_, err := virsh(ctx, command, path)
	return err
}
