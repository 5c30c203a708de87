package release

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// aboutName is the file that says what a release is. It is signed with the rest.
const aboutName = "release.txt"

// about is what the maker says of a release. Releases that were made before
// there was such a file have a version only.
type about struct {
	version string
	// date is when its sources were finished.
	date time.Time
	// bundled is when the images were put beside it; zero without images.
	bundled time.Time
}

// readAbout reads what the files of a release in dir say of it.
func readAbout(dir string) (about, error) {
	text, err := readLimited(filepath.Join(dir, versionName), maxSmall)
	if err != nil {
		return about{}, fmt.Errorf("%w: %w", ErrContent, err)
	}
	a := about{version: strings.TrimSpace(string(text))}
	if !versionPattern.MatchString(a.version) {
		return a, fmt.Errorf("%w: %.100q is no version", ErrContent, a.version)
	}
	if _, err := os.Lstat(filepath.Join(dir, aboutName)); errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if text, err = readLimited(filepath.Join(dir, aboutName), maxSmall); err != nil {
		return a, fmt.Errorf("%w: %w", ErrContent, err)
	}
	said, err := parseAbout(text)
	if err == nil && said.version != a.version {
		err = fmt.Errorf("it is of version %.100q, not %s", said.version, a.version)
	}
	if err != nil {
		return a, fmt.Errorf("%w: %s: %w", ErrContent, aboutName, err)
	}
	return said, nil
}

// parseAbout reads lines NAME: VALUE. Names that it does not know belong to
// later versions.
func parseAbout(text []byte) (a about, err error) {
	var names []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, found := strings.Cut(lines.Text(), ": ")
		if !found || slices.Contains(names, name) {
			return a, fmt.Errorf("bad line %.200q", lines.Text())
		}
		names = append(names, name)
		switch name {
		case "Version":
			a.version = value
		case "Date":
			a.date, err = time.Parse(time.RFC3339, value)
		case "Bundled":
			a.bundled, err = time.Parse(time.RFC3339, value)
		}
		if err != nil {
			return a, err
		}
	}
	if a.date.IsZero() {
		return a, errors.New("it has no date")
	}
	return a, nil
}
