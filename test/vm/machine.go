//go:build linux

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/wait"
)

// bootTimeout bounds an emulated boot with cloud-init, which takes a minute or
// two on a busy host.
const bootTimeout = 10 * time.Minute

var (
	emulators = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
	consoleOf = map[string]string{"amd64": "ttyS0", "arm64": "ttyAMA0"}
	// hardware is what differs in the description of a machine. Emulation of what
	// new processors have is slow, and in parts wrong: 5-level page tables and
	// 16-byte compare-and-exchange made kernel 6.12 crash on qemu 7.2.
	hardware = map[string]string{
		"kvm-amd64":  `<os><type arch='x86_64' machine='q35'>hvm</type>%s</os><features><acpi/></features><cpu mode='host-passthrough'/>`,
		"qemu-amd64": `<os><type arch='x86_64' machine='q35'>hvm</type>%s</os><features><acpi/></features><cpu mode='maximum'><feature policy='disable' name='la57'/><feature policy='disable' name='cx16'/><feature policy='disable' name='svm'/></cpu>`,
		"kvm-arm64":  `<os><type arch='aarch64' machine='virt'>hvm</type>%s</os><cpu mode='host-passthrough'/>`,
		"qemu-arm64": `<os><type arch='aarch64' machine='virt'>hvm</type>%s</os><cpu mode='custom'><model>cortex-a57</model></cpu>`,
	}
)

// Machine is a virtual machine.
type Machine struct {
	// Name is its host name.
	Name string

	site   *Site
	domain string
	mac    string
}

// Machine defines a machine and starts it; WaitUp waits for its boot.
func (s *Site) Machine(ctx context.Context, name string) (*Machine, error) {
	s.machines++
	m := &Machine{Name: name, site: s, domain: s.name + "-" + name, mac: fmt.Sprintf("52:54:00:f1:ee:%02x", s.machines)}
	for _, step := range []func(context.Context) error{m.makeSeed, m.makeDisk, m.makeDomain} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("making machine %s: %w", name, err)
		}
	}
	return m, m.Start(ctx)
}

func (m *Machine) path(suffix string) string { return filepath.Join(m.site.pool, m.Name+suffix) }

// makeSeed writes what cloud-init reads: the host name and the key of this run.
func (m *Machine) makeSeed(ctx context.Context) error {
	key, err := os.ReadFile(m.site.key + ".pub")
	if err != nil {
		return err
	}
	dir := m.path(".seed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"meta-data": fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", m.domain, m.Name),
		"user-data": fmt.Sprintf("#cloud-config\ndisable_root: false\nssh_pwauth: false\nusers:\n  - name: root\n    ssh_authorized_keys: [%q]\n"+
			"cloud_config_modules: []\ncloud_final_modules: []\n", // slow under emulation, and not needed
			strings.TrimSpace(string(key))),
		"network-config": "version: 2\nethernets:\n  nic: {match: {name: 'e*'}, dhcp4: true}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	_, err = tool(ctx, "xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r", "-o", m.path(".iso"), dir)
	return err
}

func (m *Machine) makeDisk(ctx context.Context) error {
	base := filepath.Join(m.site.pool, "base.raw")
	_, err := tool(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", m.path(".qcow2"))
	return err
}

// makeDomain describes the machine. Nothing in it is attacked, and its network
// has no names, so it boots without what guards against the one and looks up the
// other.
func (m *Machine) makeDomain(ctx context.Context) error {
	arch := m.site.options.Arch
	boot := fmt.Sprintf("<kernel>%[1]s.vmlinuz</kernel><initrd>%[1]s.initrd</initrd><cmdline>root=/dev/vda rw console=%[2]s mitigations=off systemd.mask=systemd-resolved.service</cmdline>",
		filepath.Join(m.site.pool, "base"), consoleOf[arch])
	xml := fmt.Sprintf(`<domain type='%s'>
  <name>%s</name>
  <memory unit='MiB'>1024</memory>
  <vcpu>1</vcpu>
  %s
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <interface type='network'><mac address='%s'/><source network='%s'/><model type='virtio'/></interface>
    <serial type='file'><source path='%s'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>`, m.site.Accelerator, m.domain, fmt.Sprintf(hardware[m.site.Accelerator+"-"+arch], boot),
		m.path(".qcow2"), m.path(".iso"), m.mac, m.site.name, m.path(".console"))
	if err := m.site.define(ctx, "define", xml); err != nil {
		return err
	}
	m.site.cleanup(virshFinally("undefine", m.domain))
	return nil
}

// Start switches the machine on.
func (m *Machine) Start(ctx context.Context) error {
	if _, err := virsh(ctx, "start", m.domain); err != nil {
		return err
	}
	m.site.cleanup(func() error {
		_ = virshFinally("destroy", m.domain)() // it may be off
		return nil
	})
	return nil
}

// PowerCut takes the power from the machine, and gives it back.
func (m *Machine) PowerCut(ctx context.Context) error {
	if _, err := virsh(ctx, "destroy", m.domain); err != nil {
		return err
	}
	_, err := virsh(ctx, "start", m.domain)
	return err
}

// WaitUp waits until the machine answers and cloud-init is done with it, whatever
// that thinks of how it went. Not of the boot whose id is given.
func (m *Machine) WaitUp(ctx context.Context, before string) (boot string, err error) {
	err = wait.Until(ctx, bootTimeout, time.Second, func() error {
		out, err := m.Run(ctx, nil, "cloud-init status --wait >/dev/null || true; cat /proc/sys/kernel/random/boot_id")
		if err != nil {
			return err
		}
		if boot = strings.TrimSpace(out); boot == before {
			return errors.New("it has not gone down yet")
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("waiting for %s to boot: %w; the end of its console:\n%s", m.Name, err, m.Console())
	}
	return boot, nil
}

// Console is the end of what the machine wrote to its console.
func (m *Machine) Console() string {
	const longest = 2000
	data, _ := os.ReadFile(m.path(".console"))
	return string(data[max(0, len(data)-longest):])
}

// address is the machine's place in the network, as its lease says.
func (m *Machine) address(ctx context.Context) (string, error) {
	leases, err := virsh(ctx, "net-dhcp-leases", m.site.name, "--mac", m.mac)
	if err != nil {
		return "", err
	}
	for field := range strings.FieldsSeq(leases) {
		if address, ok := strings.CutSuffix(field, "/24"); ok {
			return address, nil
		}
	}
	return "", errors.New("it has no address yet")
}

// Run runs a script as root in the machine, and returns its standard output.
func (m *Machine) Run(ctx context.Context, stdin io.Reader, script string) (string, error) {
	address, err := m.address(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.Name, err)
	}
	args := []string{
		"-i", m.site.key, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "root@" + address, "sh -eu -c " + quote(script),
	}
	cmd := m.site.Command(ctx, "ssh", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err = cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return stdout.String(), fmt.Errorf("%s: %s: %w: %s", m.Name, script, err, strings.TrimSpace(stderr.String()+stdout.String()))
	}
	return stdout.String(), err
}

// quote protects a text from the shell at the other end.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// CopyIn copies a file of the host into the machine.
func (m *Machine) CopyIn(ctx context.Context, src, dst string, mode os.FileMode) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = m.Run(ctx, f, fmt.Sprintf("install -D -m %o /dev/stdin %s", mode, dst))
	return err
}
