package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// staging is a directory for what is made while a program's packages are built.
type staging struct {
	release
	program string
	binary  string
	dir     string
}

const maintainer = "fleet maintainers <maintainers@fleet.nationtech.io>"

func (s staging) fill(ctx context.Context) error {
	for _, step := range []func() error{
		func() error { return s.manual(ctx) },
		func() error { return s.completions(ctx) },
		s.changelogs,
		s.contents,
		s.scripts,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// manual writes the pages, compressed as Debian's policy wants them.
func (s staging) manual(ctx context.Context) error {
	plain := filepath.Join(s.dir, "man-plain")
	if _, err := s.tool(ctx, "gen-man", plain); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(plain, "*"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		if err := s.writeGzip(filepath.Join("man", filepath.Base(page)+".gz"), content); err != nil {
			return err
		}
	}
	return nil
}

func (s staging) completions(ctx context.Context) error {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := s.tool(ctx, "completion", shell)
		if err != nil {
			return err
		}
		if err := s.write("completion."+shell, script); err != nil {
			return err
		}
	}
	return nil
}

// tool runs the program itself, as built for this machine.
func (s staging) tool(ctx context.Context, args ...string) ([]byte, error) {
	path, err := filepath.Abs(filepath.Join(s.bin, s.program))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"HOME=" + s.dir, "PATH=/usr/bin:/bin"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running %s %s: %w: %s", s.program, strings.Join(args, " "), err, stderr.String())
	}
	return out, nil
}

// changelogs writes one entry in the forms of deb and rpm, which points to the
// changelog for people.
func (s staging) changelogs() error {
	const note = "What changed is in CHANGELOG.md.gz."
	deb := fmt.Sprintf("%s (%s) unstable; urgency=medium\n\n  * %s\n\n -- %s  %s\n",
		s.program, s.version, note, maintainer, s.time.Format(time.RFC1123Z))
	if err := s.writeGzip("changelog.gz", []byte(deb)); err != nil {
		return err
	}
	rpm := fmt.Sprintf("- semver: %q\n  date: %s\n  packager: %q\n  changes:\n    - note: %q\n",
		s.version+"-1", s.time.Format(time.RFC3339), maintainer, note)
	if err := s.write("changelog.yaml", []byte(rpm)); err != nil {
		return err
	}
	changelog, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return err
	}
	return s.writeGzip("doc/CHANGELOG.md.gz", changelog)
}

// contents says what the binary is made of.
func (s staging) contents() error {
	info, err := buildinfo.ReadFile(s.binary)
	if err != nil {
		return err
	}
	sbom, err := s.sbom(s.program, s.binary, info)
	if err != nil {
		return fmt.Errorf("writing the bill of materials: %w", err)
	}
	if err := s.writeGzip("doc/sbom.cdx.json.gz", sbom); err != nil {
		return err
	}
	licences, err := licences(info)
	if err != nil {
		return fmt.Errorf("collecting licences: %w", err)
	}
	return s.writeGzip("doc/third-party-licenses.gz", licences)
}

// scripts copies the maintainer scripts and puts cleanup-user and the version
// where they want them.
func (s staging) scripts() error {
	cleanup, err := os.ReadFile("packaging/libexec/cleanup-user")
	if err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		found, err := filepath.Glob(filepath.Join("packaging", format, s.program+".p*"))
		if err != nil {
			return err
		}
		for _, script := range found {
			content, err := os.ReadFile(script)
			if err != nil {
				return err
			}
			content = bytes.Replace(content, []byte("@cleanup-user@\n"), cleanup, 1)
			content = bytes.ReplaceAll(content, []byte("@version@"), []byte(s.version))
			if err := s.write(filepath.Join(format, filepath.Base(script)), content); err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes a file with the time of the sources.
func (s staging) write(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // whatever the umask is
}

func (s staging) writeGzip(name string, content []byte) error {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.write(name, b.Bytes())
}

// setTimes gives all files below a directory the time of the sources.
func (s staging) setTimes() error {
	return filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, s.time, s.time)
	})
}
