//go:build linux

package vm

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/wait"
)

//go:embed image.sh
var imageScript string

// probeTimeout bounds the attempt to start a kernel with KVM, which takes a
// second where it works.
const probeTimeout = 15 * time.Second

// imageFiles are what image.sh makes.
var imageFiles = []string{".raw", ".vmlinuz", ".initrd"}

// image is a disk with what boots it.
type image struct{ path string }

// findImage builds the image unless the cache has it: by suite, architecture and
// recipe.
func (s *Site) findImage(ctx context.Context) error {
	sum := sha256.Sum256([]byte(imageScript))
	s.image.path = filepath.Join(s.options.Dir, s.options.Suite+"-"+s.options.Arch+"-"+hex.EncodeToString(sum[:4]))
	if _, err := os.Stat(s.image.path + ".raw"); err == nil {
		return nil
	}
	s.printf("building a disk image of %s for %s (a minute; ten for another processor)", s.options.Suite, s.options.Arch)
	// What it mounts below the root is its own, so that none of it is left, and none
	// of the host's files removed with the root, when it is killed.
	_, err := tool(ctx, "unshare", "--mount", "--propagation", "private", "sh", "-c", imageScript, "image.sh", s.image.path, s.options.Suite, s.options.Arch, source(ctx, s.options.Suite))
	return err
}

// source is the mirror that this host's apt uses, or Debian's own.
func source(ctx context.Context, suite string) string {
	mirror := "http://deb.debian.org/debian"
	out, _ := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)").Output() // no apt: as it is
	for uri := range strings.FieldsSeq(string(out)) {
		if uri = strings.TrimSuffix(uri, "/"); strings.HasSuffix(uri, "/debian") {
			mirror = uri
			break
		}
	}
	return "deb " + mirror + " " + suite + " main"
}

// findAccelerator starts the image's kernel with KVM: on some hosts the device
// opens, and kernels hang all the same.
func (s *Site) findAccelerator(ctx context.Context) error {
	s.Accelerator = "qemu"
	if s.options.Arch != runtime.GOARCH {
		return nil
	}
	if err := s.probeKVM(ctx); err != nil {
		s.printf("KVM does not work here, so qemu emulates: %v", err)
		return nil
	}
	s.Accelerator = "kvm"
	return nil
}

func (s *Site) probeKVM(ctx context.Context) error {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return err
	}
	console, err := os.CreateTemp("", "fleet-kvm-")
	if err != nil {
		return err
	}
	defer os.Remove(console.Name())
	defer console.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	kernel := append(map[string][]string{"amd64": nil, "arm64": {"-machine", "virt", "-cpu", "host"}}[s.options.Arch],
		"-accel", "kvm", "-m", "256M", "-nographic", "-no-reboot", "-kernel", s.image.path+".vmlinuz",
		"-append", "console="+consoleOf[s.options.Arch]+" panic=-1")
	cmd := exec.CommandContext(ctx, emulators[s.options.Arch], kernel...)
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed, or its kernel found no root
		close(ended)
	}()
	err = wait.Until(ctx, probeTimeout, pollInterval, func() error {
		text, err := os.ReadFile(console.Name())
		if err == nil && !strings.Contains(string(text), "Linux version") {
			err = errors.New("no kernel started")
		}
		return err
	})
	cancel()
	<-ended
	if err != nil {
		return fmt.Errorf("trying a kernel for %s: %w", probeTimeout, err)
	}
	return nil
}
