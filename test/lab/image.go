//go:build linux

package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// HelloImage is the image of the demo and of examples/hello.yaml.
const HelloImage = "localhost/hello:1"

// HelloPort is the port in the container on which an image of Image serves.
const HelloPort = 8080

// helloCommand serves /www. The shell is PID 1 and forwards nothing, but ends
// at SIGTERM; httpd as PID 1 would ignore it and cost 10 s at each stop.
const helloCommand = "trap 'exit 0' TERM INT; httpd -f -p 8080 -h /www & wait"

// Image builds an image without any registry, from the static busybox of the
// root, and returns its path: an archive for podman load. Its command serves a
// page that names the reference on HelloPort; all applets of busybox are there
// for other commands.
func (r *Root) Image(ctx context.Context, ref string) (string, error) {
	path := filepath.Join(r.lab.imagesDir(), imageFile(r, ref))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	archive, err := BuildImage(ctx, filepath.Join(r.dir, "usr", "bin", "busybox"), ref)
	if err != nil {
		return "", fmt.Errorf("building the image %s: %w", ref, err)
	}
	if err := writeAtomically(path, archive); err != nil {
		return "", fmt.Errorf("storing the image %s: %w", ref, err)
	}
	return path, nil
}

func imageFile(r *Root, ref string) string {
	sum := sha256.Sum256([]byte(filepath.Base(r.dir) + "\n" + helloCommand + "\n" + ref))
	return hex.EncodeToString(sum[:6]) + ".tar"
}

// BuildImage makes the archive of Image from a statically linked busybox of
// this host.
func BuildImage(ctx context.Context, busybox, ref string) ([]byte, error) {
	layer, err := imageLayer(ctx, busybox, ref)
	if err != nil {
		return nil, err
	}
	config, err := imageConfig(layer)
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return nil, err
	}
	return tarball(
		file{name: "manifest.json", content: manifest},
		file{name: "config.json", content: config},
		file{name: "layer.tar", content: layer},
	)
}

func imageConfig(layer []byte) ([]byte, error) {
	sum := sha256.Sum256(layer)
	return json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Cmd": []string{"/bin/sh", "-c", helloCommand}, "Env": []string{"PATH=/bin"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
}

// imageLayer is the image's file system.
func imageLayer(ctx context.Context, path, ref string) ([]byte, error) {
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading busybox: %w", err)
	}
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing busybox's applets: %w", err)
	}
	files := []file{
		{name: "bin/busybox", content: busybox, mode: 0o755},
		{name: "www/index.html", content: []byte("Hello from " + ref + "\n")},
		{name: "tmp/", mode: 0o1777},
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			files = append(files, file{name: "bin/" + applet, link: "busybox"})
		}
	}
	return tarball(files...)
}

// file is an entry of a tar archive: a directory when the name ends with a
// slash, a symbolic link when link is set. Mode 0644 when 0.
type file struct {
	name, link string
	content    []byte
	mode       int64
}

func (f file) header() *tar.Header {
	h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
	if f.mode != 0 {
		h.Mode = f.mode
	}
	switch {
	case f.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
	case strings.HasSuffix(f.name, "/"):
		h.Typeflag = tar.TypeDir
	}
	return h
}

// tarball has no times in it, so that equal content has an equal digest.
func tarball(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(f.header()); err != nil {
			return nil, fmt.Errorf("writing %s: %w", f.name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("writing %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("ending the archive: %w", err)
	}
	return b.Bytes(), nil
}

// writeAtomically keeps two processes that build the same file apart.
func writeAtomically(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".partial-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		if rmErr := os.Remove(tmp.Name()); !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	return err
}

// Image is Root.Image for the machine's root.
func (m *Machine) Image(ctx context.Context, ref string) (string, error) {
	return m.root.Image(ctx, ref)
}

// LoadImage builds the image (see Root.Image) and loads it into the storage of
// WorkloadUser, as a pull would.
func (m *Machine) LoadImage(ctx context.Context, ref string) error {
	path, err := m.root.Image(ctx, ref)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the image %s: %w", ref, err)
	}
	defer f.Close()
	load := []string{"podman", "load", "--quiet"}
	r, err := m.runAs(ctx, f, WorkloadUser, load)
	if _, err := output(load, r, err); err != nil {
		return fmt.Errorf("loading the image %s: %w", ref, err)
	}
	return nil
}
