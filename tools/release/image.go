package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	imageProgram = "fleet-server"
	// imageUser is a number that no account of the host should have. Its files in
	// the image are the data directory and no other.
	imageUser = 65532
	imageData = "/var/lib/fleet-server"
)

// imagePorts are those of the API, of devices and of enrollment.
var imagePorts = []string{"4222/tcp", "6443/tcp", "8443/tcp"}

// serverImage is the container image of the server: an OCI archive with an index of
// all architectures. It needs no daemon, and no base but what is made here.
type serverImage struct {
	release
	out      string
	revision string
}

func runImage(args []string) error {
	i := serverImage{}
	f := flag.NewFlagSet("release image", flag.ContinueOnError)
	names := f.String("arches", "amd64 arm64 armhf", "Debian's names of architectures, separated by blanks")
	repo := f.String("repo", "..", "the checkout, from which all other paths start")
	f.StringVar(&i.version, "version", "", "version of the image")
	f.StringVar(&i.revision, "revision", "", "commit of the sources")
	f.StringVar(&i.dir, "dir", "dist", "directory that has the binaries")
	f.StringVar(&i.out, "out", "fleet-server-image.tar", "the OCI archive")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := i.start(*names, *repo, f.NArg()); err != nil {
		return err
	}
	return i.make()
}

func (i serverImage) make() error {
	if err := i.archive(); err != nil {
		return fmt.Errorf("making the container image: %w", err)
	}
	return nil
}

// archive writes the layout to a directory of its own and puts that into a tar.
func (i serverImage) archive() error {
	index, err := i.index()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fleet-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	name := i.name()
	// podman and skopeo read the first, containerd and docker the second.
	called := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name})
	if err := path.AppendIndex(index, called); err != nil {
		return err
	}
	return i.pack(dir)
}

// tagOf is the version as a tag, which can hold neither ~ nor +.
var tagOf = strings.NewReplacer("~", "-", "+", "_")

func (i serverImage) name() string {
	return "localhost/" + imageProgram + ":" + tagOf.Replace(i.version)
}

func (i serverImage) index() (v1.ImageIndex, error) {
	base, err := i.base()
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, a := range i.arches {
		one, err := i.one(base, a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.deb, err)
		}
		platform := &v1.Platform{OS: "linux", Architecture: a.binary, Variant: a.variant()}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return mutate.Annotations(index, i.labels()).(v1.ImageIndex), nil
}

// variant is what OCI calls armhf.
func (a arch) variant() string {
	if a.binary == "arm" {
		return "v7"
	}
	return ""
}

// one is the image of an architecture.
func (i serverImage) one(base v1.Layer, a arch) (v1.Image, error) {
	program, err := i.program(a)
	if err != nil {
		return nil, err
	}
	ports := map[string]struct{}{}
	for _, port := range imagePorts {
		ports[port] = struct{}{}
	}
	at := v1.Time{Time: i.time}
	config := &v1.ConfigFile{
		OS: "linux", Architecture: a.binary, Variant: a.variant(), Created: at,
		Config: v1.Config{
			User: fmt.Sprintf("%d:%d", imageUser, imageUser), WorkingDir: "/",
			Entrypoint: []string{"/usr/bin/" + imageProgram}, Cmd: []string{"run"},
			Env:          []string{"PATH=/usr/bin", "HOME=/tmp"},
			ExposedPorts: ports, Volumes: map[string]struct{}{imageData: {}}, Labels: i.labels(),
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	one := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if one, err = mutate.ConfigFile(one, config); err != nil {
		return nil, err
	}
	history := func(what string) v1.History { return v1.History{Created: at, CreatedBy: what} }
	return mutate.Append(one, mutate.Addendum{Layer: base, History: history("accounts, authorities, directories")},
		mutate.Addendum{Layer: program, History: history(imageProgram + " " + i.version)})
}

func (i serverImage) labels() map[string]string {
	labels := map[string]string{
		"title": imageProgram, "version": i.version, "revision": i.revision,
		"description": "control plane for containers on a fleet of small machines",
		"created":     i.time.Format(time.RFC3339), "licenses": "Apache-2.0", "vendor": "NationTech",
		"url": "https://fleet.nationtech.io",
	}
	all := map[string]string{}
	for key, value := range labels {
		if value != "" {
			all["org.opencontainers.image."+key] = value
		}
	}
	return all
}

// base is what the program needs around it, the same for all architectures.
func (i serverImage) base() (v1.Layer, error) {
	authorities, err := authorities()
	if err != nil {
		return nil, err
	}
	account := fmt.Sprintf("%s:x:%d:", imageProgram, imageUser)
	return i.layer(
		layerFile{name: "etc/group", content: []byte("root:x:0:\n" + account + "\n")},
		layerFile{name: "etc/passwd", content: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\n%s%d::%s:/sbin/nologin\n", account, imageUser, imageData)},
		layerFile{name: "etc/ssl/certs/ca-certificates.crt", content: authorities},
		layerFile{name: "tmp/", mode: 0o1777},
		layerFile{name: strings.TrimPrefix(imageData, "/") + "/", mode: 0o700, owner: imageUser},
	)
}

// program is the layer with the binary, which finds no library beside it.
func (i serverImage) program(a arch) (v1.Layer, error) {
	path := i.binary(imageProgram, a)
	if err := checkStatic(path); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return i.layer(layerFile{name: "usr/bin/" + imageProgram, content: content, mode: 0o755})
}

func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%s is linked dynamically: build it with CGO_ENABLED=0", filepath.Base(path))
	}
	return nil
}

// layerFile is a file of the image, or a directory when its name ends with a
// slash. Mode 0644 when 0, and root's when owner is 0.
type layerFile struct {
	name    string
	content []byte
	mode    int64
	owner   int
}

// layer has the files sorted, after their directories. It is compressed once: the
// library would do so whenever it looks at it.
func (i serverImage) layer(files ...layerFile) (v1.Layer, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range withDirectories(files) {
		if err := i.add(w, f); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

func withDirectories(files []layerFile) []layerFile {
	all := map[string]layerFile{}
	for _, f := range files {
		for at := range f.name {
			if dir := f.name[:at+1]; f.name[at] == '/' && dir != f.name {
				all[dir] = layerFile{name: dir, mode: 0o755}
			}
		}
	}
	for _, f := range files {
		all[f.name] = f
	}
	sorted := make([]layerFile, 0, len(all))
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b layerFile) int { return strings.Compare(a.name, b.name) })
	return sorted
}

// add writes a header in which nothing is of this machine.
func (i serverImage) add(w *tar.Writer, f layerFile) error {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.content)), Mode: cmp.Or(f.mode, 0o644),
		Uid: f.owner, Gid: f.owner, ModTime: i.time, Format: tar.FormatPAX,
	}
	if strings.HasSuffix(f.name, "/") {
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(f.content)
	return err
}

// pack writes the tar of the layout beside its place and moves it there.
func (i serverImage) pack(dir string) error {
	partial := i.out + ".partial"
	f, err := os.Create(partial)
	if err != nil {
		return err
	}
	err = errors.Join(i.tar(f, dir), f.Close())
	if err == nil {
		err = os.Rename(partial, i.out)
	}
	return errors.Join(err, os.RemoveAll(partial))
}

func (i serverImage) tar(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // sorted by name
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return i.add(w, layerFile{name: name + "/", mode: 0o755})
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return i.add(w, layerFile{name: name, content: content})
	})
	return errors.Join(err, w.Close())
}
