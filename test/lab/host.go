//go:build linux

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// programs maps what the lab runs on the host to the Debian package that has it.
var programs = map[string]string{
	"mmdebstrap":     "mmdebstrap",
	"systemd-nspawn": "systemd-container",
	"nsenter":        "util-linux",
	"unshare":        "util-linux",
	"setsid":         "util-linux",
	"mount":          "mount",
	"ip":             "iproute2",
	"tar":            "tar",
}

// keyring lets hosts that are not Debian verify Debian's archive.
const keyring = "debian-archive-keyring"

// checkHost reports with ErrUnsupported what keeps this host from running
// machines, and returns where cgroup2 is mounted.
func checkHost() (cgroups string, err error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%w: run as root", ErrUnsupported)
	}
	if err := checkDevices(); err != nil {
		return "", err
	}
	if cgroups, err = cgroup2Mount("/proc/self/mounts"); err != nil {
		return "", err
	}
	if unix.Access(cgroups, unix.W_OK) != nil {
		return "", fmt.Errorf("%w: %s is read-only", ErrUnsupported, cgroups)
	}
	return cgroups, checkNamespaces()
}

// checkDevices looks for the kernel's drivers; machines have nodes of their own.
// A driver that is a module shows only a node before it is first used.
func checkDevices() error {
	drivers, err := os.ReadFile("/proc/misc")
	if err != nil {
		return fmt.Errorf("looking for drivers: %w", err)
	}
	for driver, node := range map[string]string{"fuse": "/dev/fuse", "tun": "/dev/net/tun"} {
		loaded := slices.Contains(strings.Fields(string(drivers)), driver)
		if _, err := os.Stat(node); err != nil && !loaded {
			return fmt.Errorf("%w: the kernel has no driver for %s", ErrUnsupported, node)
		}
	}
	return nil
}

// checkNamespaces tries what every machine needs: a mount in a mount namespace.
func checkNamespaces() error {
	out, err := exec.Command("unshare", "--mount", "--propagation", "private",
		"mount", "-t", "tmpfs", "tmpfs", "/run").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: mounting in a mount namespace: %w: %s", ErrUnsupported, err, lastLine(out))
	}
	// Rootless podman makes user namespaces, which the kernel lets nobody do below a chroot.
	if out, err = exec.Command("unshare", "--user", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: making a user namespace: %w: %s: in a chroot, enter it by pivot_root instead", ErrUnsupported, err, lastLine(out))
	}
	return nil
}

// cgroup2Mount finds the unified hierarchy, which hybrid hosts mount beside v1.
func cgroup2Mount(mounts string) (string, error) {
	f, err := os.Open(mounts)
	if err != nil {
		return "", fmt.Errorf("finding cgroup2: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%w: cgroup2 is not mounted", ErrUnsupported)
}

// installPrograms installs what is missing with apt-get.
func (l *Lab) installPrograms(ctx context.Context) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: install %s", ErrUnsupported, strings.Join(missing, ", "))
	}
	l.printf("installing %s", strings.Join(missing, ", "))
	install := append([]string{"-q", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends"}, missing...)
	for _, args := range [][]string{{"-q", "update"}, install} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("running apt-get %s: %w: %s", args[len(args)-1], err, lastLine(out))
		}
	}
	return nil
}

func missingPackages() []string {
	var missing []string
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if found, _ := filepath.Glob("/usr/share/keyrings/debian-archive-*"); len(found) == 0 {
		missing = append(missing, keyring)
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// lastLine shortens the output of a failed program to what usually names the cause.
func lastLine(out []byte) string {
	s := strings.TrimSpace(string(out))
	return s[strings.LastIndexByte(s, '\n')+1:]
}
