package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func (r release) path(name string) string { return filepath.Join(r.dir, name) }

// publish adds what the release has beside packages and binaries.
func (r release) publish(k *keys) error {
	releaseKey, err := k.publicRelease()
	if err != nil {
		return err
	}
	packagesKey, err := k.publicPackages()
	if err != nil {
		return err
	}
	installer, err := installer(releaseKey)
	if err != nil {
		return err
	}
	files := map[string][]byte{"version": []byte(r.version + "\n"), aboutName: r.about(), "release.pub": releaseKey, "packages.asc": packagesKey, "install.sh": installer}
	for name, content := range files {
		if err := os.WriteFile(r.path(name), content, 0o644); err != nil {
			return err
		}
	}
	return r.sign(k)
}

// sign lists the checksums of everything in the directory and signs the list.
func (r release) sign(k *keys) error {
	sums, err := r.checksums()
	if err != nil {
		return fmt.Errorf("computing checksums: %w", err)
	}
	signature, err := k.signChecksums(sums)
	if err != nil {
		return fmt.Errorf("signing checksums: %w", err)
	}
	return errors.Join(
		os.WriteFile(r.path("checksums.txt"), sums, 0o644),
		os.WriteFile(r.path("checksums.txt.sig"), signature, 0o644),
	)
}

// aboutName is the file that says what a release is, so that the signature says
// it as well: that it is not an older one, and of which channels it is.
const aboutName = "release.txt"

func (r release) about() []byte {
	return fmt.Appendf(nil, "Version: %s\nDate: %s\nChannels: %s\n", r.version, r.time.Format(time.RFC3339), strings.Join(r.channels, " "))
}

// installer is install.sh with the key that it has to trust.
func installer(key []byte) ([]byte, error) {
	script, err := os.ReadFile("install.sh")
	if err != nil {
		return nil, err
	}
	placeholder := []byte("\nRELEASE_KEY=''\n")
	if bytes.Count(script, placeholder) != 1 {
		return nil, errors.New("install.sh needs one line RELEASE_KEY=''")
	}
	return bytes.Replace(script, placeholder, fmt.Appendf(nil, "\nRELEASE_KEY='%s'\n", bytes.TrimSpace(key)), 1), nil
}

// checksums is checksums.txt: what sha256sum prints for every other file.
func (r release) checksums() ([]byte, error) {
	entries, err := os.ReadDir(r.dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "checksums.txt") {
			continue
		}
		sum, err := fileSum(r.path(e.Name()))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%x  %s\n", sum, e.Name())
	}
	return b.Bytes(), nil
}

func fileSum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}
