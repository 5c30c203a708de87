// Package natskeys reads and makes the keys by which a fleet and a NATS beside it know each
// other: a directory with a nkey in each file.
package natskeys

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// Public are the public keys, which a NATS server has to know.
type Public struct {
	// Issuer is the key of an account, which signs who a device is.
	Issuer string
	// XKey is a curve key for which requests about devices are encrypted; empty for none.
	XKey string
	// Devices, Core and System are the users by which the operator of the fleet connects to
	// accounts DEV, CORE and SYS.
	Devices, Core, System string
}

// Pairs are the same keys with their seeds, which the operator of the fleet has.
type Pairs struct {
	Issuer nkeys.KeyPair
	// XKey is nil for none.
	XKey                  nkeys.KeyPair
	Devices, Core, System nkeys.KeyPair
}

// keyFile is a file of a directory of keys.
type keyFile struct {
	name   string
	kind   string
	prefix nkeys.PrefixByte
	public func(*Public) *string
	pair   func(*Pairs) *nkeys.KeyPair
	// optional: the file need not be there.
	optional bool
}

var keyFiles = []keyFile{
	{"issuer.nk", "account", nkeys.PrefixByteAccount, func(k *Public) *string { return &k.Issuer }, func(k *Pairs) *nkeys.KeyPair { return &k.Issuer }, false},
	{"xkey.nk", "curve", nkeys.PrefixByteCurve, func(k *Public) *string { return &k.XKey }, func(k *Pairs) *nkeys.KeyPair { return &k.XKey }, true},
	{"dev.nk", "user", nkeys.PrefixByteUser, func(k *Public) *string { return &k.Devices }, func(k *Pairs) *nkeys.KeyPair { return &k.Devices }, false},
	{"core.nk", "user", nkeys.PrefixByteUser, func(k *Public) *string { return &k.Core }, func(k *Pairs) *nkeys.KeyPair { return &k.Core }, false},
	{"sys.nk", "user", nkeys.PrefixByteUser, func(k *Public) *string { return &k.System }, func(k *Pairs) *nkeys.KeyPair { return &k.System }, false},
}

// maxKeyFile bounds a file of a key in bytes.
const maxKeyFile = 4 << 10

// ReadPublic reads the public keys of a directory: issuer.nk, dev.nk, core.nk, sys.nk and, if
// it is there, xkey.nk. Each holds a seed or a public key. No error repeats what is in a file.
func ReadPublic(dir string) (k Public, err error) {
	return k, read(dir, func(f keyFile, public string, _ nkeys.KeyPair) error {
		*f.public(&k) = public
		return nil
	})
}

// ReadPairs is ReadPublic for a directory whose files all hold seeds.
func ReadPairs(dir string) (k Pairs, err error) {
	return k, read(dir, func(f keyFile, _ string, pair nkeys.KeyPair) error {
		if pair == nil {
			return fmt.Errorf("%s holds a public key: the seed of it is needed", filepath.Join(dir, f.name))
		}
		*f.pair(&k) = pair
		return nil
	})
}

// read calls each with the key of each file, whose pair is nil when it has no seed.
func read(dir string, each func(f keyFile, public string, pair nkeys.KeyPair) error) error {
	users := map[string]bool{}
	for _, f := range keyFiles {
		public, pair, err := f.read(dir)
		if errors.Is(err, fs.ErrNotExist) && f.optional {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: fleet-server nats-accounts --create makes the keys that are missing", err)
		}
		if err == nil {
			err = each(f, public, pair)
		}
		if err != nil {
			return err
		}
		if users[public] { // NATS would know one of the accounts only
			return errors.New("dev.nk, core.nk and sys.nk must be three keys: each account has a user of its own")
		}
		users[public] = f.prefix == nkeys.PrefixByteUser
	}
	return nil
}

// read returns the key of a file.
func (f keyFile) read(dir string) (public string, pair nkeys.KeyPair, err error) {
	path := filepath.Join(dir, f.name)
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, fmt.Errorf("reading a key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return "", nil, fmt.Errorf("reading a key: %s is not a file of at most %d bytes", path, maxKeyFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", nil, fmt.Errorf("reading a key: %w", err)
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	line = bytes.TrimSpace(line)
	if seed, seedErr := nkeys.FromSeed(bytes.Clone(line)); seedErr == nil { // which keeps what it is given
		pair = seed
		if public, err = pair.PublicKey(); err != nil {
			return "", nil, fmt.Errorf("reading the key %s: %w", path, err)
		}
	} else {
		public = string(line)
	}
	clear(data)
	if nkeys.Prefix(public) != f.prefix || !valid(public, f.prefix) {
		return "", nil, fmt.Errorf("%s holds no %s nkey: it must be one line with a seed or a public key", path, f.kind)
	}
	return public, pair, nil
}

// valid reports whether a text is a whole public key.
func valid(public string, prefix nkeys.PrefixByte) bool {
	_, err := nkeys.Decode(prefix, []byte(public))
	return err == nil
}

// Create makes the keys that a directory lacks, each in a file that its owner alone
// can read, and returns the names of those files.
func Create(dir string) (made []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating %s: %w", dir, err)
	}
	for _, f := range keyFiles {
		path := filepath.Join(dir, f.name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return made, fmt.Errorf("looking for the key %s: %w", path, err)
			}
			continue
		}
		pair, err := nkeys.CreatePair(f.prefix)
		if err != nil {
			return made, fmt.Errorf("making the key %s: %w", path, err)
		}
		seed, err := pair.Seed()
		if err != nil {
			return made, fmt.Errorf("making the key %s: %w", path, err)
		}
		err = atomicfile.Write(path, append(seed, '\n'), 0o600)
		pair.Wipe()
		clear(seed)
		if err != nil {
			return made, err
		}
		made = append(made, f.name)
	}
	return made, nil
}
