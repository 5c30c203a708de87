package interpreter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Dir has the registrations: each package of an interpreter puts a file NAME.yaml there.
const Dir = "/usr/lib/fleet-agent/interpreters.d"

const (
	maxRegistration  = 4 << 10
	maxRegistrations = 32
	maxTypes         = 8
)

// registration is what a file in Dir says.
type registration struct {
	// Types are the score types that the interpreter takes.
	Types []string `yaml:"types"`
	// Socket is the path at which its socket unit listens.
	Socket string `yaml:"socket"`
}

// Find returns the interpreters that are registered in a directory, ordered by name, and
// why others are not taken. owner is trusted beside root. There need not be a directory.
func Find(dir string, owner int) (found []Config, refused []error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{err}
	}
	for _, e := range entries[:min(len(entries), maxRegistrations)] {
		name, ok := strings.CutSuffix(e.Name(), ".yaml")
		if !ok {
			continue
		}
		r, err := readRegistration(filepath.Join(dir, e.Name()), owner)
		if err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", filepath.Join(dir, e.Name()), err))
			continue
		}
		found = append(found, Config{Name: name, Types: r.Types, Socket: r.Socket, Owner: owner})
	}
	return found, refused
}

func readRegistration(path string, owner int) (r registration, err error) {
	if err := checkDirectory(path, owner); err != nil {
		return r, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return r, errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return r, errors.New("it is no regular file")
	}
	if err := checkOwner(path, info, owner); err != nil {
		return r, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRegistration))
	if err != nil {
		return r, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&r); err != nil {
		return r, fmt.Errorf("it is not of the form {types: [TYPE], socket: PATH}: %w", err)
	}
	return r, r.validate()
}

func (r *registration) validate() error {
	if len(r.Types) == 0 || len(r.Types) > maxTypes {
		return fmt.Errorf("types: %d of them, 1 to %d are allowed", len(r.Types), maxTypes)
	}
	for _, t := range r.Types {
		if len(wire.ParseCapabilities([]string{string(wire.CanRun(t))})) == 0 {
			return fmt.Errorf("types: %.63q is no score type", t)
		}
	}
	if !filepath.IsAbs(r.Socket) || filepath.Clean(r.Socket) != r.Socket {
		return fmt.Errorf("socket: %.200q is not an absolute path in its shortest form", r.Socket)
	}
	return nil
}

// Choose leaves out interpreters that take a type which another one has, or one of taken.
func Choose(found []Config, taken []string) (chosen []Config, refused []error) {
	taken = slices.Clone(taken)
	for _, c := range found {
		if i := slices.IndexFunc(c.Types, func(t string) bool { return slices.Contains(taken, t) }); i >= 0 {
			refused = append(refused, fmt.Errorf("interpreter %s: another one takes scores of type %s", c.Name, c.Types[i]))
			continue
		}
		taken = append(taken, c.Types...)
		chosen = append(chosen, c)
	}
	return chosen, refused
}
