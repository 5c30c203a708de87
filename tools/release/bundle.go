package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// bundle is a release and container images in one tar, for a site without
// internet.
type bundle struct {
	release
	images []string
	out    string
	// bundled is when; a release may be bundled again with newer images.
	bundled time.Time
}

// member is a file of the bundle by its name there and its path here, or with its
// content.
type member struct {
	name, path string
	content    []byte
}

func runBundle(args []string) error {
	b := bundle{release: release{keys: keyFiles{release: os.Getenv("FLEET_RELEASE_KEY"), packages: os.Getenv("FLEET_PACKAGES_KEY")}}}
	f := flag.NewFlagSet("release bundle", flag.ContinueOnError)
	images := f.String("images", "", "OCI archives of container images, separated by blanks")
	seconds := f.Int64("time", 0, "when the images were put together, in seconds (default SOURCE_DATE_EPOCH)")
	repo := f.String("repo", "..", "the checkout, from which all other paths start")
	f.StringVar(&b.dir, "dir", "dist", "directory of the release")
	f.StringVar(&b.out, "out", "fleet-bundle.tar", "the bundle")
	f.StringVar(&b.keys.cache, "keys", ".cache/release-keys", "where keys are that FLEET_RELEASE_KEY does not name")
	if err := f.Parse(args); err != nil {
		return err
	}
	b.images = strings.Fields(*images)
	var err error
	if b.time, err = sourceDate(); err != nil {
		return err
	}
	b.bundled = b.time
	if *seconds > 0 {
		b.bundled = time.Unix(*seconds, 0).UTC()
	}
	if err := os.Chdir(*repo); err != nil {
		return err
	}
	if err := b.make(); err != nil {
		return fmt.Errorf("making %s: %w", b.out, err)
	}
	return nil
}

// make writes the tar beside its place and moves it there.
func (b *bundle) make() error {
	keys, err := b.keys.load()
	if err != nil {
		return err
	}
	members, err := b.members()
	if err != nil {
		return err
	}
	sums, err := checksumsOf(members)
	if err != nil {
		return err
	}
	signature, err := keys.signChecksums(sums)
	if err != nil {
		return err
	}
	partial := b.out + ".partial"
	f, err := os.Create(partial)
	if err != nil {
		return err
	}
	err = b.write(f, members, sums, signature)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(partial, b.out)
	}
	return errors.Join(err, os.RemoveAll(partial))
}

// members are the release's files and the images, sorted by name, then what the
// release says of itself.
func (b *bundle) members() ([]member, error) {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return nil, fmt.Errorf("reading the release: %w", err)
	}
	var all []member
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "checksums.txt") && e.Name() != aboutName {
			all = append(all, member{name: e.Name(), path: b.path(e.Name())})
		}
	}
	for _, image := range b.images {
		if err := checkImage(image); err != nil {
			return nil, fmt.Errorf("%s: %w", image, err)
		}
		name := strings.TrimSuffix(filepath.Base(image), ".tar") + ".tar"
		all = append(all, member{name: "images/" + name, path: image})
	}
	slices.SortFunc(all, func(a, b member) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(all); i++ {
		if all[i].name == all[i-1].name {
			return nil, fmt.Errorf("two images are called %s", all[i].name)
		}
	}
	about, err := os.ReadFile(b.path(aboutName))
	if err != nil {
		return nil, fmt.Errorf("reading the release: %w", err)
	}
	return append(all, member{name: aboutName, content: fmt.Appendf(about, "Bundled: %s\n", b.bundled.Format(time.RFC3339))}), nil
}

// checkImage finds out a mistake here rather than on a gateway.
func checkImage(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return errors.New("not a container image in an archive: make one with podman save --format oci-archive")
		}
		if name := filepath.Clean(h.Name); name == "oci-layout" || name == "index.json" || name == "manifest.json" {
			return nil
		}
	}
}

func checksumsOf(members []member) ([]byte, error) {
	var b bytes.Buffer
	for _, m := range members {
		sum, err := m.sum()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%x  %s\n", sum, m.name)
	}
	return b.Bytes(), nil
}

func (m member) sum() ([]byte, error) {
	if m.content == nil {
		return fileSum(m.path)
	}
	sum := sha256.Sum256(m.content)
	return sum[:], nil
}

// write puts first what is asked for first.
func (b *bundle) write(out io.Writer, members []member, sums, signature []byte) error {
	w := tar.NewWriter(out)
	for _, f := range []struct {
		name    string
		content []byte
	}{{"checksums.txt", sums}, {"checksums.txt.sig", signature}} {
		if err := b.add(w, f.name, int64(len(f.content)), bytes.NewReader(f.content)); err != nil {
			return err
		}
	}
	for _, m := range members {
		if err := b.addFile(w, m); err != nil {
			return err
		}
	}
	return w.Close()
}

func (b *bundle) addFile(w *tar.Writer, m member) error {
	if m.content != nil {
		return b.add(w, m.name, int64(len(m.content)), bytes.NewReader(m.content))
	}
	f, err := os.Open(m.path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return b.add(w, m.name, info.Size(), f)
}

// add writes a header in which nothing is of this machine.
func (b *bundle) add(w *tar.Writer, name string, size int64, content io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: b.time.Truncate(time.Second), Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyN(w, content, size)
	return err
}
