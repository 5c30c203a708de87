package aptrepo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// timeLayout is how an index writes a time.
const timeLayout = "Mon, 02 Jan 2006 15:04:05 UTC"

var (
	dateLine  = regexp.MustCompile(`(?m)^Date: (.*)\n`)
	untilLine = regexp.MustCompile(`(?m)^Valid-Until: (.*)\n`)
)

// Term returns the date of the index in dir and when it expires; zero for one
// that does not.
func Term(dir string) (date, until time.Time, err error) {
	text, err := os.ReadFile(filepath.Join(dists(dir), "Release"))
	if err != nil {
		return date, until, err
	}
	if date, err = parse(text, dateLine); err != nil {
		return date, until, err
	}
	until, err = parse(text, untilLine)
	return date, until, err
}

func parse(text []byte, line *regexp.Regexp) (t time.Time, err error) {
	m := line.FindSubmatch(text)
	if m == nil {
		return t, nil
	}
	if t, err = time.Parse(timeLayout, string(m[1])); err != nil {
		return t, fmt.Errorf("reading the index: %w", err)
	}
	return t, nil
}

// Renew signs the index in dir again, with another date and an end.
func Renew(dir string, signer Signer, date, until time.Time) error {
	text, err := os.ReadFile(filepath.Join(dists(dir), "Release"))
	if err != nil {
		return err
	}
	text = untilLine.ReplaceAll(text, nil)
	if !dateLine.Match(text) {
		return fmt.Errorf("the index has no date")
	}
	lines := "Date: " + date.UTC().Format(timeLayout) + "\nValid-Until: " + until.UTC().Format(timeLayout) + "\n"
	return sign(dists(dir), signer, dateLine.ReplaceAll(bytes.Clone(text), []byte(lines)))
}
