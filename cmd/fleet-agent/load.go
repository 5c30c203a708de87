package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/printable"
)

const (
	// maxArchives bounds the archives of one command, which are open all at once, and
	// maxBeside the names that are read of a directory.
	maxArchives, maxBeside = 256, 10_000
)

// archiveEndings are those of files of a directory that are taken for archives of images.
var archiveEndings = []string{".tar", ".tar.gz", ".tgz", ".oci"}

func newLoad(f flags) *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE | DIRECTORY…",
		Short: "Take images from archives, as from a USB stick, in place of pulls",
		Long: `Take images from archives, as from a USB stick, in place of pulls. An archive is
what podman save, docker save or skopeo copy to oci-archive: make. Of a directory,
all files ending with .tar, .tar.gz, .tgz or .oci are taken, and none of those
below it. One command takes up to 256 archives, and follows no link in a directory.

An archive has to name its images in full, as Deployments do:
    skopeo copy docker://docker.io/library/nginx:1.29 \
      oci-archive:nginx.tar:docker.io/library/nginx:1.29
Podman compares what it reads with the digests in the archive. The agent does not
remove such images by itself. A Deployment that could not pull is tried again
within five minutes. It needs podman, but no server and no running agent.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			archives, err := openArchives(args) // with the rights of whoever may read them
			if err != nil {
				return err
			}
			defer archives.close()
			_, runtime, err := f.workloads(cmd)
			if err != nil {
				return err
			}
			defer runtime.Close()
			return archives.load(cmd.Context(), runtime, cmd.OutOrStdout())
		},
	}
}

// archives are open files.
type archives []*os.File

// openArchives opens files, and those of directories.
func openArchives(paths []string) (all archives, err error) {
	defer func() {
		if err != nil {
			all.close()
		}
	}()
	for _, path := range paths {
		some, err := openArchivesAt(path)
		all = append(all, some...)
		if err != nil {
			return all, err
		}
		if len(all) > maxArchives {
			return all, fmt.Errorf("more than %d archives: name fewer at a time", maxArchives)
		}
	}
	return all, nil
}

// openArchivesAt opens a file, or those of a directory, in order.
func openArchivesAt(path string) (archives, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would keep it waiting
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, errors.Join(err, file.Close())
	case info.IsDir():
		defer file.Close()
		return archivesIn(file)
	case !info.Mode().IsRegular():
		return nil, errors.Join(file.Close(), fmt.Errorf("%s is no file", path))
	}
	return archives{file}, nil
}

// archivesIn opens the files of a directory.
func archivesIn(dir *os.File) (all archives, err error) {
	entries, err := dir.ReadDir(maxBeside + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > maxBeside {
		return nil, fmt.Errorf("%s has more than %d files: name the archives, or put them into a directory of their own", dir.Name(), maxBeside)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if !slices.ContainsFunc(archiveEndings, func(ending string) bool { return strings.HasSuffix(e.Name(), ending) }) {
			continue
		}
		if len(all) == maxArchives {
			return all, fmt.Errorf("%s has more than %d archives: name fewer at a time", dir.Name(), maxArchives)
		}
		file, err := archiveIn(dir, e.Name())
		if err != nil {
			return all, err
		}
		all = append(all, file)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no file ending with %s", dir.Name(), strings.Join(archiveEndings, ", "))
	}
	return all, nil
}

// archiveIn opens a file of a directory. Root reads what it names and hands that to another
// account, so that a link there, which whoever made the directory put in it, leads nowhere.
func archiveIn(dir *os.File, name string) (*os.File, error) {
	path := filepath.Join(dir.Name(), name)
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a link: name what it leads to, or remove it", path)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, file.Close(), fmt.Errorf("%s is no file", path))
	}
	return file, nil
}

func (a archives) close() {
	for _, file := range a {
		_ = file.Close() // it was read only
	}
}

// load gives podman all archives, and goes on after one that it does not take.
func (a archives) load(ctx context.Context, runtime *podman.Client, out io.Writer) error {
	failed := 0
	for i, file := range a {
		printable.Fprintf(out, "%d of %d: %s\n", i+1, len(a), file.Name())
		names, err := loadOne(ctx, runtime, file)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			printable.Fprintf(out, "  %s\n", err)
			failed++
		}
		for _, name := range names {
			printable.Fprintf(out, "  %s\n", name)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d archives could not be loaded", failed, len(a))
	}
	return nil
}

// loadOne gives podman an archive. Podman keeps a copy while it unpacks it.
func loadOne(ctx context.Context, runtime *podman.Client, file *os.File) ([]string, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	device, err := runtime.Info(ctx)
	if err != nil {
		return nil, err
	}
	if err := roomForArchive(info.Size(), &device); err != nil {
		return nil, err
	}
	return runtime.Load(ctx, file)
}

// roomForArchive refuses an archive that does not fit, as itself and unpacked.
func roomForArchive(size int64, device *container.Info) error {
	const mib = 1 << 20
	free := int64(device.StoreSize) - int64(device.StoreUsed) //nolint:gosec // no disk has 8 EiB
	if device.StoreSize > 0 && free < 2*size {
		return fmt.Errorf("no space: it needs at least %d MiB, and %d of %d MiB are free in %s", 2*size/mib, free/mib, device.StoreSize/mib, device.StoreRoot)
	}
	return nil
}
