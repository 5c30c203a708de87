package main

import (
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// gathering makes the directory with everything that is published.
type gathering struct {
	release
	packages string // as `make packages` writes it
	plugins  string // binaries of the plugin of kubectl, as `make plugins` writes it
	bundle   string
	revision string
}

func runGather(args []string) error {
	g := gathering{release: release{keys: keyFiles{release: os.Getenv("FLEET_RELEASE_KEY"), packages: os.Getenv("FLEET_PACKAGES_KEY")}}}
	f := flag.NewFlagSet("release gather", flag.ContinueOnError)
	names := f.String("arches", "amd64 arm64 armhf", "Debian's names of architectures, separated by blanks")
	repo := f.String("repo", "..", "the checkout, from which all other paths start")
	f.StringVar(&g.version, "version", "", "version of the release")
	f.StringVar(&g.revision, "revision", "", "commit of the sources")
	f.StringVar(&g.packages, "packages", "dist/packages", "directory of packages, as make packages writes it")
	f.StringVar(&g.plugins, "plugins", "dist/plugins", "directory of plugins, as make plugins writes it")
	f.StringVar(&g.bundle, "bundle", "", "the bundle of these packages")
	f.StringVar(&g.dir, "dir", "dist/release", "directory that gets everything, and is not there yet")
	f.StringVar(&g.keys.cache, "keys", ".cache/release-keys", "where keys are that FLEET_RELEASE_KEY does not name")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := g.start(*names, *repo, f.NArg()); err != nil {
		return err
	}
	if err := g.make(); err != nil {
		return fmt.Errorf("gathering the release in %s: %w", g.dir, err)
	}
	return nil
}

// make fills a directory beside the place and moves it there: what has the name
// is complete.
func (g gathering) make() error {
	place := g.dir
	g.dir += ".partial"
	if err := errors.Join(os.RemoveAll(g.dir), os.Mkdir(g.dir, 0o755)); err != nil {
		return err
	}
	err := g.fill()
	if err == nil {
		err = os.Rename(g.dir, place)
	}
	return errors.Join(err, os.RemoveAll(g.dir))
}

func (g gathering) fill() error {
	keys, err := g.keys.load()
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		g.addPackages, g.addBundle, g.addImage, g.addMaterials, g.addPlugins, g.addChanges, g.addSchema,
		func() error { return g.sign(keys) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// addPackages takes all but the list of checksums, which gets longer.
func (g gathering) addPackages() error {
	entries, err := os.ReadDir(g.packages)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "checksums.txt") {
			continue
		}
		if err := linkOrCopy(filepath.Join(g.packages, e.Name()), g.path(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (g gathering) addBundle() error {
	return linkOrCopy(g.bundle, g.path(fmt.Sprintf("fleet-bundle_%s.tar", g.version)))
}

func (g gathering) addImage() error {
	return serverImage{release: g.release, revision: g.revision, out: g.path(fmt.Sprintf("%s_%s_oci.tar", imageProgram, g.version))}.make()
}

// addMaterials adds a bill of materials for each binary.
func (g gathering) addMaterials() error {
	for _, program := range programs {
		for _, a := range g.arches {
			binary := g.binary(program, a)
			info, err := buildinfo.ReadFile(binary)
			if err != nil {
				return err
			}
			sbom, err := g.sbom(program, binary, info)
			if err != nil {
				return fmt.Errorf("writing the bill of materials of %s for %s: %w", program, a.deb, err)
			}
			if err := os.WriteFile(binary+".cdx.json", sbom, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g gathering) addChanges() error {
	changes, err := g.changes()
	if err != nil {
		return err
	}
	return os.WriteFile(g.path(changesName), changes, 0o644)
}

// schemaPath is what editors check scores with.
const schemaPath = "docs/reference/podman-v0.schema.json"

func (g gathering) addSchema() error {
	schema, err := os.ReadFile(schemaPath)
	if err != nil {
		return err
	}
	return os.WriteFile(g.path(filepath.Base(schemaPath)), schema, 0o644)
}

// linkOrCopy gives a file a second name, which costs no room where the file
// system has links.
func linkOrCopy(from, to string) error {
	if err := os.Link(from, to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
