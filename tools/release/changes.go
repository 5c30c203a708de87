package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// changesName is the file with what changed in a version.
const changesName = "CHANGES.md"

// runCheck finds out before minutes of compiling what a release lacks.
func runCheck(args []string) error {
	r := release{}
	f := flag.NewFlagSet("release check", flag.ContinueOnError)
	names := f.String("arches", "amd64 arm64 armhf", "Debian's names of architectures, separated by blanks")
	repo := f.String("repo", "..", "the checkout, from which all other paths start")
	f.StringVar(&r.version, "version", "", "version of the release")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := r.start(*names, *repo, f.NArg()); err != nil {
		return err
	}
	_, err := r.changes()
	return err
}

// changes is the section of the version in CHANGELOG.md, under a title.
func (r release) changes() ([]byte, error) {
	changelog, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return nil, err
	}
	name := sectionOf(r.version)
	section, ok := sectionIn(changelog, name)
	switch {
	case !ok:
		return nil, fmt.Errorf("CHANGELOG.md has no section ## [%s]: write down there what changes for users in %s", name, r.version)
	case !hasEntries(section):
		return nil, fmt.Errorf("section ## [%s] of CHANGELOG.md is empty: write down there what changes for users in %s", name, r.version)
	}
	return fmt.Appendf(nil, "# fleet %s\n\n%s\n", r.version, bytes.TrimSpace(section)), nil
}

// sectionOf is the name in the changelog of a version from tools/version.sh: that
// of the tag, or what is not released yet.
func sectionOf(version string) string {
	if strings.Contains(version, "dev.") || strings.HasPrefix(version, "0.0.0~") {
		return "Unreleased"
	}
	return strings.ReplaceAll(strings.TrimSuffix(version, ".dirty"), "~", "-")
}

var sectionEnd = regexp.MustCompile(`(?m)^(## |\[[^\]]+\]: )`)

// sectionIn is the text below a heading such as `## [1.2.3] - 2027-01-02`, up to
// the next one or the links at the end.
func sectionIn(changelog []byte, name string) ([]byte, bool) {
	heading := regexp.MustCompile(`(?m)^## \[` + regexp.QuoteMeta(name) + `\].*$`)
	at := heading.FindIndex(changelog)
	if at == nil {
		return nil, false
	}
	section := changelog[at[1]:]
	if end := sectionEnd.FindIndex(section); end != nil {
		section = section[:end[0]]
	}
	return section, true
}

// hasEntries reports whether a section has more than headings.
func hasEntries(section []byte) bool {
	for line := range bytes.Lines(section) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return true
		}
	}
	return false
}
