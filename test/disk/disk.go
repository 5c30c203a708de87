//go:build linux

package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// loopControl is how loop devices are asked for.
const loopControl = "/dev/loop-control"

// Supported reports with errors.ErrUnsupported what keeps this host from having disks.
func Supported() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: run as root", errors.ErrUnsupported)
	}
	if _, err := os.Stat(loopControl); err != nil {
		return fmt.Errorf("%w: no loop devices: %w", errors.ErrUnsupported, err)
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
	}
	return nil
}

// Format makes an image of so many bytes. Its file system has the content of a directory,
// or nothing when that is empty.
func Format(ctx context.Context, image string, size int64, content string) error {
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, size); err != nil {
		return err
	}
	// Nothing is left to be set up later, nor is anything kept for root.
	args := []string{"-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"}
	if content != "" {
		args = append(args, "-d", content)
	}
	return run(ctx, "mkfs.ext4", append(args, image)...)
}

// Mount mounts an image at a directory.
func Mount(ctx context.Context, image, dir string) error {
	return run(ctx, "mount", "-o", "loop", image, dir)
}

// Unmount ends what Mount did.
func Unmount(ctx context.Context, dir string) error { return run(ctx, "umount", dir) }

// Take copies a mounted image as it is at one moment. Processes that write to it have to
// stand still, but the kernel may be writing back. A copy that is the same as its original
// afterwards is what was there at one moment.
func Take(ctx context.Context, image, taken string) error {
	for {
		if err := run(ctx, "cp", "--sparse=always", image, taken); err != nil {
			return err
		}
		equal, err := same(image, taken)
		if err != nil || equal {
			return err
		}
	}
}

// same reports whether two files have the same content.
func same(one, other string) (bool, error) {
	a, err := os.Open(one)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(other)
	if err != nil {
		return false, err
	}
	defer b.Close()
	const chunk = 1 << 20
	x, y := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := io.ReadFull(a, x)
		m, _ := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
