package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"golang.org/x/mod/module"
)

// sbom lists the Go modules in a binary of a program, in CycloneDX's JSON, and
// says which binary that is by its checksum.
func (r release) sbom(program, binary string, info *debug.BuildInfo) ([]byte, error) {
	sum, err := fileSum(binary)
	if err != nil {
		return nil, err
	}
	bom := cyclonedx.NewBOM()
	about := cyclonedx.Component{
		BOMRef: program, Type: cyclonedx.ComponentTypeApplication, Name: program, Version: r.version,
		Hashes: &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}},
	}
	bom.Metadata = &cyclonedx.Metadata{Timestamp: r.time.Format(time.RFC3339), Component: &about}
	components := []cyclonedx.Component{{
		BOMRef: "go", Type: cyclonedx.ComponentTypeLibrary, Name: "std", Version: info.GoVersion,
		PackageURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"),
	}}
	for _, m := range modules(info) {
		url := "pkg:golang/" + m.Path + "@" + m.Version
		components = append(components, cyclonedx.Component{
			BOMRef: url, Type: cyclonedx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: url,
		})
	}
	bom.Components = &components
	var b bytes.Buffer
	encoder := cyclonedx.NewBOMEncoder(&b, cyclonedx.BOMFileFormatJSON).SetPretty(true)
	err = encoder.Encode(bom)
	return b.Bytes(), err
}

// modules are those that a binary holds beside its own.
func modules(info *debug.BuildInfo) []*debug.Module {
	all := make([]*debug.Module, 0, len(info.Deps))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, m)
	}
	return all
}

var licenceName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// licences joins the licences of all modules, which ask to go with a binary.
func licences(info *debug.BuildInfo) ([]byte, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("running go env: %w", err)
	}
	cache := strings.TrimSpace(string(out))
	var b bytes.Buffer
	for _, m := range modules(info) {
		path, err := module.EscapePath(m.Path)
		if err != nil {
			return nil, err
		}
		if err := appendLicences(&b, m, filepath.Join(cache, path+"@"+m.Version)); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

func appendLicences(b *bytes.Buffer, m *debug.Module, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !licenceName.MatchString(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "==== %s %s: %s\n\n%s\n\n", m.Path, m.Version, e.Name(), bytes.TrimSpace(text))
	}
	return nil
}
