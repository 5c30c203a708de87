package natschart

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

// Keys are the public keys that a NATS server has to know.
type Keys struct {
	// Issuer is the key of an account, which signs who a device is.
	Issuer string
	// XKey is a curve key for which requests about devices are encrypted; empty for none.
	XKey string
	// Devices, Core and System are the users by which the operator of the fleet connects to
	// accounts DEV, CORE and SYS.
	Devices, Core, System string
}

// keyFile is a file of a directory of keys.
type keyFile struct {
	name   string
	kind   string
	prefix nkeys.PrefixByte
	of     func(*Keys) *string
	// optional: the file need not be there.
	optional bool
}

var keyFiles = []keyFile{
	{"issuer.nk", "account", nkeys.PrefixByteAccount, func(k *Keys) *string { return &k.Issuer }, false},
	{"xkey.nk", "curve", nkeys.PrefixByteCurve, func(k *Keys) *string { return &k.XKey }, true},
	{"dev.nk", "user", nkeys.PrefixByteUser, func(k *Keys) *string { return &k.Devices }, false},
	{"core.nk", "user", nkeys.PrefixByteUser, func(k *Keys) *string { return &k.Core }, false},
	{"sys.nk", "user", nkeys.PrefixByteUser, func(k *Keys) *string { return &k.System }, false},
}

// maxKeyFile bounds a file of a key in bytes.
const maxKeyFile = 4 << 10

// ReadKeys reads the keys in a directory: issuer.nk, dev.nk, core.nk, sys.nk and, if it
// is there, xkey.nk. Each holds a seed or a public key. No error repeats what is in a
// file.
func ReadKeys(dir string) (Keys, error) {
	var k Keys
	for _, f := range keyFiles {
		public, err := f.read(dir)
		if errors.Is(err, fs.ErrNotExist) && f.optional {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return Keys{}, fmt.Errorf("%w: --create makes the keys that are missing", err)
		}
		if err != nil {
			return Keys{}, err
		}
		*f.of(&k) = public
	}
	return k, k.check()
}

// check refuses one key for two users: NATS would know one of the accounts only.
func (k Keys) check() error {
	if k.Devices == k.Core || k.Core == k.System || k.System == k.Devices {
		return errors.New("dev.nk, core.nk and sys.nk must be three keys: each account has a user of its own")
	}
	return nil
}

// read returns the public key of a file.
func (f keyFile) read(dir string) (string, error) {
	path := filepath.Join(dir, f.name)
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("reading a key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return "", fmt.Errorf("reading a key: %s is not a file of at most %d bytes", path, maxKeyFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading a key: %w", err)
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	line = bytes.TrimSpace(line)
	public := string(line)
	if pair, err := nkeys.FromSeed(line); err == nil {
		if public, err = pair.PublicKey(); err != nil {
			return "", fmt.Errorf("reading the key %s: %w", path, err)
		}
	}
	if nkeys.Prefix(public) != f.prefix || !valid(public, f.prefix) {
		return "", fmt.Errorf("%s holds no %s nkey: it must be one line with a seed or a public key", path, f.kind)
	}
	return public, nil
}

// valid reports whether a text is a whole public key.
func valid(public string, prefix nkeys.PrefixByte) bool {
	_, err := nkeys.Decode(prefix, []byte(public))
	return err == nil
}

// CreateKeys makes the keys that a directory lacks, each in a file that its owner alone
// can read, and returns the names of those files.
func CreateKeys(dir string) (made []string, err error) {
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
