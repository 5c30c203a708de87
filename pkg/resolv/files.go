package resolv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// maxFile bounds what is read of a file, in bytes.
	maxFile = 64 << 10
	// settle is how long after a change it is looked again: networks come up in steps,
	// and a container that starts meanwhile gets what podman read before.
	settle = 3 * time.Second
	// maxRounds bounds how often.
	maxRounds = 20
)

// Files are where things lie. All fields but those about networks are mandatory.
type Files struct {
	// Device is the device's resolv.conf, Upstream that of systemd-resolved with the
	// servers that it asks. They need not exist.
	Device, Upstream string
	// Containers is podman's directory for containers that run.
	Containers string
	// Networks are the files that podman's server of names reads, for the networks that
	// containers have together, and Reload makes it read them again; nil for none.
	Networks []string
	Reload   func() error
	// Before keeps whom the device asked before.
	Before string
}

// Settle brings the files of all containers up to date a while after a change, until
// nothing changes any more.
func (f Files) Settle(ctx context.Context) error {
	for range maxRounds {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settle):
		}
		if changed, err := f.Sync(); err != nil || !changed {
			return err
		}
	}
	return nil
}

// Sync does it once, and reports whether anything changed, on the device or in files.
// A file that cannot be written keeps no other from being.
func (f Files) Sync() (changed bool, err error) {
	now := Device{Conf: Parse(read(f.Device)), Upstream: Parse(read(f.Upstream))}
	before := read(f.Before)
	var then Device
	_ = json.Unmarshal([]byte(before), &then) // none is known
	files, err := filepath.Glob(filepath.Join(f.Containers, "*-containers", "*", "userdata", "resolv.conf"))
	if err != nil {
		return false, err
	}
	changed, failed := follow(files, now, then)
	asked, err := follow(f.Networks, now, then)
	if failed = errors.Join(failed, err); asked && f.Reload != nil {
		failed = errors.Join(failed, f.Reload())
	}
	changed = changed || asked
	known, err := json.Marshal(now)
	if err == nil && len(now.Servers) > 0 && string(known) != before {
		changed = true
		err = os.WriteFile(f.Before, known, 0o600)
	}
	return changed, errors.Join(failed, err)
}

// follow brings files up to date.
func follow(files []string, now, then Device) (changed bool, failed error) {
	for _, file := range files {
		next, write := Follow(Parse(read(file)), now, then)
		if !write {
			continue
		}
		if err := overwrite(file, next.String()); err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // its container ended
				failed = errors.Join(failed, err)
			}
			continue
		}
		changed = true
	}
	return changed, failed
}

// read returns the text of a file, or "" of one that cannot be read. A container may
// have written it.
func read(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return ""
	}
	return string(data)
}

// overwrite puts text into a file that a container has mounted, so that it must stay
// the same file. Whoever reads meanwhile finds the text at its beginning.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	whole := text + strings.Repeat("\n", int(min(max(info.Size()-int64(len(text)), 0), maxFile)))
	if _, err := f.WriteAt([]byte(whole), 0); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Close()
}
