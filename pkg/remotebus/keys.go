package remotebus

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// maxSeed bounds a file of a seed in bytes.
const maxSeed = 4 << 10

// ReadKeys reads the seeds of nkeys from a directory: issuer.nk, dev.nk, core.nk, sys.nk and,
// when callouts are encrypted, xkey.nk. It returns a Config with these alone. No error repeats
// what is in a file.
func ReadKeys(dir string) (c Config, err error) {
	if c.Issuer, err = readSeed(dir, "issuer.nk", nkeys.PrefixByteAccount); err != nil {
		return Config{}, err
	}
	if c.XKey, err = readSeed(dir, "xkey.nk", nkeys.PrefixByteCurve); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, err
	}
	for name, login := range map[string]*nats.Option{"dev.nk": &c.Devices, "core.nk": &c.Core, "sys.nk": &c.System} {
		user, err := readSeed(dir, name, nkeys.PrefixByteUser)
		if err != nil {
			return Config{}, err
		}
		public, err := user.PublicKey()
		if err != nil {
			return Config{}, fmt.Errorf("%s: %w", name, err)
		}
		*login = nats.Nkey(public, user.Sign)
	}
	return c, nil
}

func readSeed(dir, name string, kind nkeys.PrefixByte) (nkeys.KeyPair, error) {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSeed {
		return nil, fmt.Errorf("reading a key: %s is not a file of at most %d bytes", path, maxSeed)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	defer clear(data)
	line, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	prefix, _, err := nkeys.DecodeSeed(bytes.TrimSpace(line))
	if err != nil || prefix != kind {
		return nil, fmt.Errorf("%s holds no seed of the kind that it is for: fleet-server nats-accounts --create makes it", path)
	}
	return nkeys.FromSeed(bytes.Clone(bytes.TrimSpace(line)))
}
