package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// pluginName is the plugin of kubectl. Operators run it on machines of their own, which
// are not only Linux, so that it has archives in place of packages.
const pluginName = "kubectl-fleet"

// addPlugins adds an archive and a bill of materials for each binary of the plugin.
func (g gathering) addPlugins() error {
	binaries, err := filepath.Glob(filepath.Join(g.plugins, pluginName+"_"+g.version+"_*"))
	if err != nil {
		return err
	}
	if len(binaries) == 0 {
		return fmt.Errorf("no %s_%s_OS_ARCH in %s", pluginName, g.version, g.plugins)
	}
	for _, binary := range binaries {
		if err := g.addPlugin(binary); err != nil {
			return fmt.Errorf("packing %s: %w", filepath.Base(binary), err)
		}
	}
	return nil
}

func (g gathering) addPlugin(binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	sbom, err := g.sbom(pluginName, binary, info)
	if err != nil {
		return err
	}
	name := filepath.Base(binary)
	if err := os.WriteFile(g.path(name+".cdx.json"), sbom, 0o644); err != nil {
		return err
	}
	windows := strings.HasPrefix(name, pluginName+"_"+g.version+"_windows_")
	members, err := pluginMembers(binary, windows)
	if err != nil {
		return err
	}
	pack, suffix := g.tarball, ".tar.gz"
	if windows {
		pack, suffix = g.zip, ".zip"
	}
	archive, err := pack(members)
	if err != nil {
		return err
	}
	return os.WriteFile(g.path(name+suffix), archive, 0o644)
}

// file is one of an archive.
type file struct {
	name    string
	mode    fs.FileMode
	content []byte
}

// pluginMembers are the plugin, what kubectl asks for completions, and the licence.
func pluginMembers(binary string, windows bool) ([]file, error) {
	names := [][2]string{{binary, pluginName}, {"packaging/kubectl/kubectl_complete-fleet", "kubectl_complete-fleet"}, {"LICENSE", "LICENSE"}}
	if windows {
		names[0][1] += ".exe"
		for i := range names[1] {
			names[1][i] += ".cmd"
		}
	}
	var files []file
	for i, n := range names {
		content, err := os.ReadFile(n[0])
		if err != nil {
			return nil, err
		}
		mode := fs.FileMode(0o755)
		if i == len(names)-1 {
			mode = 0o644
		}
		files = append(files, file{n[1], mode, content})
	}
	return files, nil
}

func (g gathering) tarball(files []file) ([]byte, error) {
	var b bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(compressed)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: int64(f.mode), Size: int64(len(f.content)), ModTime: g.time}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	err = compressed.Close()
	return b.Bytes(), err
}

func (g gathering) zip(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: g.time}
		h.SetMode(f.mode)
		member, err := w.CreateHeader(h)
		if err != nil {
			return nil, err
		}
		if _, err := member.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
