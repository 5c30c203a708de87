package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the formats register themselves
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// section is that of the manual pages which the programs write.
const section = "8"

// pack writes one package.
func (s staging) pack(format string, a arch, keys *keys) error {
	if err := s.setTimes(); err != nil {
		return err
	}
	info, err := s.info(format, a)
	if err != nil {
		return err
	}
	if err := s.addStaged(info); err != nil {
		return err
	}
	info.MTime = s.time
	for _, c := range info.Contents {
		if c.FileInfo != nil {
			c.FileInfo.MTime = s.time
		}
		if format == "rpm" && isDocumentation(c) {
			c.Type = files.TypeRPMDoc
		}
	}
	if format == "rpm" {
		info.Changelog = filepath.Join(s.dir, "changelog.yaml")
		info.RPM.BuildHost = "localhost"
		info.RPM.Signature.SignFn = keys.rpmSigner(s.time)
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	path, err := s.writePackage(packager, info)
	if err == nil && format == "deb" {
		err = keys.signDeb(path)
	}
	return err
}

// addStaged adds the directories that have a file for each of something.
func (s staging) addStaged(info *nfpm.Info) error {
	for from, to := range map[string]string{"man": "/usr/share/man/man" + section, "doc": "/usr/share/doc/" + s.program} {
		entries, err := os.ReadDir(filepath.Join(s.dir, from))
		if err != nil {
			return err
		}
		for _, e := range entries {
			info.Contents = append(info.Contents, &files.Content{
				Source: filepath.Join(s.dir, from, e.Name()), Destination: path.Join(to, e.Name()),
				FileInfo: &files.ContentFileInfo{Mode: 0o644},
			})
		}
	}
	return nil
}

// isDocumentation is what rpm --excludedocs leaves out.
func isDocumentation(c *files.Content) bool {
	return c.Type == "" && (strings.HasPrefix(c.Destination, "/usr/share/doc/") || strings.HasPrefix(c.Destination, "/usr/share/man/"))
}

// info reads the description of a package and fills in what stands in ${}.
func (s staging) info(format string, a arch) (*nfpm.Info, error) {
	text, err := os.ReadFile(filepath.Join("packaging", s.program+".yaml"))
	if err != nil {
		return nil, err
	}
	values := map[string]string{"ARCH": a.nfpm, "VERSION": s.version, "BINARY": s.binary, "STAGE": s.dir}
	var unknown error
	filled := os.Expand(string(text), func(name string) string {
		value, ok := values[name]
		if !ok {
			unknown = fmt.Errorf("%s.yaml: nothing is known of ${%s}", s.program, name)
		}
		return value
	})
	if unknown != nil {
		return nil, unknown
	}
	config, err := nfpm.Parse(strings.NewReader(filled))
	if err != nil {
		return nil, err
	}
	info, err := config.Get(format)
	if err != nil {
		return nil, err
	}
	return nfpm.WithDefaults(info), nil
}

func (s staging) writePackage(packager nfpm.Packager, info *nfpm.Info) (path string, err error) {
	path = s.path(packager.ConventionalFileName(info))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	if err := errors.Join(packager.Package(info, f), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, nil
}
