package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	secretsDir     = "secrets"
	secretsKeyFile = "secrets.key"
	secretsKeySize = 32 // AES-256
	// maxSealed bounds a sealed file: all that a Deployment uses, in base64, and with many
	// short keys.
	maxSealed = 3 * wire.MaxSecrets
)

// Secrets are the contents of Secrets and ConfigMaps by name, see wire.ConfigMapName, and key.
type Secrets map[string]map[string][]byte

// Secrets returns the contents with this digest, or nil when they are not here.
// What is damaged counts as absent, so that it is fetched again, and so does, without being
// removed, what cannot be read at this moment.
func (s *Store) Secrets(digest string) Secrets {
	if !wire.ValidHash(digest) {
		return nil
	}
	name := filepath.Join(secretsDir, digest)
	sealed, err := readFile(s.secretsPath(digest), maxSealed)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		s.discard(name, err)
		return nil
	}
	aead, err := s.secretsCipher()
	if err != nil { // which says nothing of what it would open
		s.unreadable(name, err)
		return nil
	}
	contents, err := unsealSecrets(aead, digest, sealed)
	if err != nil {
		s.discard(name, err)
		return nil
	}
	return contents
}

// HasSecrets reports whether there is a file for contents, which may be damaged.
func (s *Store) HasSecrets(digest string) bool {
	return wire.ValidHash(digest) && exists(s.secretsPath(digest))
}

// SaveSecrets stores contents under their digest, encrypted: a copy of the
// directory without its key file gives nothing away, and no search through the
// disk finds them.
func (s *Store) SaveSecrets(digest string, contents Secrets) error {
	if !wire.ValidHash(digest) {
		return fmt.Errorf("storing secrets %.64q: %w", digest, ErrHash)
	}
	aead, err := s.secretsCipher()
	if err != nil {
		return err
	}
	plain, err := json.Marshal(contents)
	if err != nil {
		return fmt.Errorf("encoding secrets: %w", err)
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	if err := os.MkdirAll(filepath.Join(s.dir, secretsDir), 0o700); err != nil {
		return fmt.Errorf("storing secrets: %w", err)
	}
	return s.put(s.secretsPath(digest), aead.Seal(nonce, nonce, plain, []byte(digest)))
}

// CollectSecrets removes the contents that keep does not name.
func (s *Store) CollectSecrets(keep map[string]bool) error {
	err := s.collect(secretsDir, keep)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no score ever named any
	}
	return err
}

// unsealSecrets returns errors that are errDamage.
func unsealSecrets(aead cipher.AEAD, digest string, sealed []byte) (Secrets, error) {
	if len(sealed) < aead.NonceSize() {
		return nil, fmt.Errorf("%w: too short", errDamage)
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(digest))
	if err != nil {
		return nil, fmt.Errorf("%w: not sealed with this device's key", errDamage)
	}
	var contents Secrets
	if err := json.Unmarshal(plain, &contents); err != nil || contents == nil {
		return nil, fmt.Errorf("%w: not a set of secrets", errDamage)
	}
	return contents, nil
}

// secretsKey reads the key, and makes it when there is none.
func (s *Store) secretsKey() ([]byte, error) {
	path := filepath.Join(s.dir, secretsKeyFile)
	key, err := readFile(path, secretsKeySize+1)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(key) != secretsKeySize {
		key = make([]byte, secretsKeySize)
		_, _ = rand.Read(key) // never fails, see crypto/rand
		err = s.put(path, key)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of secrets: %w", err)
	}
	return key, nil
}

func (s *Store) secretsCipher() (cipher.AEAD, error) {
	key, err := s.secretsKey()
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("reading the key of secrets: %w", err)
	}
	return cipher.NewGCM(block)
}

func (s *Store) secretsPath(digest string) string { return filepath.Join(s.dir, secretsDir, digest) }

// Confidential returns what of the state directory nobody else may see, as far as it can
// be read: private keys, and the values of Secrets. It is for those who look for that in
// other texts.
func (s *Store) Confidential() (all [][]byte) {
	for _, file := range []string{identityFile, pendingFile, previousFile} {
		var id Identity
		if s.read(file, &id) {
			all = append(all, []byte(id.Key))
		}
	}
	if spare, there := s.spareIdentity(); there {
		all = append(all, []byte(spare.Key))
	}
	var r renewal
	if s.read(renewalFile, &r) {
		all = append(all, []byte(r.Key))
	}
	key, err := readFile(filepath.Join(s.dir, secretsKeyFile), secretsKeySize)
	if err != nil || len(key) != secretsKeySize {
		return all
	}
	all = append(all, key)
	aead, err := s.secretsCipher()
	if err != nil {
		return all
	}
	entries, _ := os.ReadDir(filepath.Join(s.dir, secretsDir))
	for _, e := range entries {
		sealed, err := readFile(filepath.Join(s.dir, secretsDir, e.Name()), maxSealed)
		if err != nil || !wire.ValidHash(e.Name()) {
			continue
		}
		contents, err := unsealSecrets(aead, e.Name(), sealed)
		if err != nil {
			continue
		}
		for _, secret := range contents {
			for _, value := range secret {
				all = append(all, value)
			}
		}
	}
	return all
}
