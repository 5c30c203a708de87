// Command release makes a release out of the binaries in a directory: deb and
// rpm packages, keys, checksums and their signature, in the layout of
// docs/design/0011-packages-and-install.md. `make packages` calls it, `make
// bundle` its command bundle, which makes one file of a release, and `make
// release` its commands check, image and gather, which make everything that is
// published. Equal sources, keys and SOURCE_DATE_EPOCH give equal bytes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what a run is told.
type release struct {
	dir      string // has the binaries, gets all the rest
	bin      string // binaries of this machine, which write manuals and completions
	version  string
	channels []string // of mirrors
	arches   []arch
	time     time.Time
	keys     keyFiles
}

// programs are those that have packages.
var programs = []string{"fleet-agent", "fleet-server"}

// arch is an architecture in the names of Debian, of nfpm, of rpm, and of the
// binaries.
type arch struct{ deb, nfpm, rpm, binary string }

var arches = map[string]arch{
	"amd64": {"amd64", "amd64", "x86_64", "amd64"},
	"arm64": {"arm64", "arm64", "aarch64", "arm64"},
	"armhf": {"armhf", "arm7", "armv7hl", "arm"},
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "bundle":
			return runBundle(args[1:])
		case "image":
			return runImage(args[1:])
		case "check":
			return runCheck(args[1:])
		case "gather":
			return runGather(args[1:])
		}
	}
	r := release{keys: keyFiles{release: os.Getenv("FLEET_RELEASE_KEY"), packages: os.Getenv("FLEET_PACKAGES_KEY")}}
	f := flag.NewFlagSet("release", flag.ContinueOnError)
	names := f.String("arches", "amd64 arm64 armhf", "Debian's names of architectures, separated by blanks")
	f.StringVar(&r.version, "version", "", "version of the packages")
	channels := f.String("channels", "stable", "channels of mirrors that may offer this release, separated by blanks")
	repo := f.String("repo", "..", "the checkout, from which all other paths start")
	f.StringVar(&r.bin, "bin", "bin", "directory of binaries that run here")
	f.StringVar(&r.dir, "dir", "dist", "directory that has the binaries")
	f.StringVar(&r.keys.cache, "keys", ".cache/release-keys", "where keys are made that FLEET_RELEASE_KEY and FLEET_PACKAGES_KEY don't name")
	if err := f.Parse(args); err != nil {
		return err
	}
	r.channels = strings.Fields(*channels)
	if err := r.start(*names, *repo, f.NArg()); err != nil {
		return err
	}
	return r.make(ctx)
}

// start checks what a run was told, and goes to the checkout.
func (r *release) start(names, repo string, words int) error {
	if r.version == "" || words > 0 {
		return errors.New("-version is missing, or there is a word too many")
	}
	for _, name := range strings.Fields(names) {
		a, ok := arches[name]
		if !ok {
			return fmt.Errorf("unknown architecture %q: use amd64, arm64 or armhf", name)
		}
		r.arches = append(r.arches, a)
	}
	var err error
	if r.time, err = sourceDate(); err != nil {
		return err
	}
	return os.Chdir(repo)
}

// sourceDate is the one time that is in everything that is made.
func sourceDate() (time.Time, error) {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading SOURCE_DATE_EPOCH, which has to be the time of the release in seconds: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func (r release) make(ctx context.Context) error {
	keys, err := r.keys.load()
	if err != nil {
		return err
	}
	for _, program := range programs {
		for _, a := range r.arches {
			if err := r.packProgram(ctx, program, a, keys); err != nil {
				return fmt.Errorf("packing %s for %s: %w", program, a.deb, err)
			}
		}
	}
	for _, a := range r.arches {
		if err := r.repodata(ctx, a, keys); err != nil {
			return fmt.Errorf("making the index for dnf on %s: %w", a.rpm, err)
		}
	}
	return r.publish(keys)
}

func (r release) packProgram(ctx context.Context, program string, a arch, keys *keys) error {
	stage, err := os.MkdirTemp("", "fleet-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	s := staging{release: r, program: program, binary: r.binary(program, a), dir: stage}
	if err := s.fill(ctx); err != nil {
		return err
	}
	public, err := keys.publicRelease()
	if err != nil {
		return err
	}
	if err := s.write("release.pub", public); err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		if err := s.pack(format, a, keys); err != nil {
			return err
		}
	}
	return nil
}

// binary is the path of a program's binary for an architecture.
func (r release) binary(program string, a arch) string {
	return r.path(fmt.Sprintf("%s_%s_linux_%s", program, r.version, a.binary))
}
