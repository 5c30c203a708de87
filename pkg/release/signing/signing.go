// Package signing is the gateway's own OpenPGP key: it vouches for the apt
// metadata that the gateway serves. It imports no other package of fleet
// but atomicfile.
package signing

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// rsaBits: apt, dnf and rpm of every release that is still kept up know RSA;
// not all of them know Ed25519.
const rsaBits = 3072

// madeAt is the creation date of every key. Who verifies a signature wants it
// later than the key, and the gateway's clock may be wrong when a key is made.
var madeAt = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// ErrNone: there is no key.
var ErrNone = errors.New("the signing key is lost: restore it from a backup, or import the release again and set devices' repositories up again")

// Key signs metadata.
type Key struct {
	entity *openpgp.Entity
	// date is that of signatures, until when they expire; zero for never.
	date, until time.Time
}

// Open reads the key in a file, and makes one at the first time. It has no
// expiry: a site without internet has nobody who would hand out the next. Its
// signatures are of the date.
func Open(path string, date time.Time) (*Key, error) {
	k, err := Load(path, date)
	if errors.Is(err, ErrNone) {
		return create(path, date)
	}
	return k, err
}

// Load is Open for a key that has to be there. Its error wraps ErrNone when there
// is none.
func Load(path string, date time.Time) (*Key, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the signing key: %w", ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data))
	if err != nil || len(keys) != 1 || keys[0].PrivateKey == nil {
		return nil, fmt.Errorf("reading the signing key: %s is damaged: restore it from a backup, or remove it and set devices' repositories up again", path)
	}
	return &Key{entity: keys[0], date: date}, nil
}

// Until returns the key with signatures that expire.
func (k *Key) Until(t time.Time) *Key { return &Key{entity: k.entity, date: k.date, until: t} }

func create(path string, date time.Time) (*Key, error) {
	k := &Key{date: madeAt}
	entity, err := openpgp.NewEntity("fleet gateway", "signs package lists", "", k.config())
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	k.entity = entity
	data, err := armored(openpgp.PrivateKeyType, func(w io.Writer) error { return entity.SerializePrivate(w, k.config()) })
	if err != nil {
		return nil, fmt.Errorf("making the signing key: %w", err)
	}
	k.date = date
	return k, atomicfile.Write(path, data, 0o600)
}

func (k *Key) config() *packet.Config {
	at := k.date
	if k.entity != nil && at.Before(k.entity.PrimaryKey.CreationTime) {
		at = k.entity.PrimaryKey.CreationTime
	}
	c := &packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: rsaBits, DefaultHash: crypto.SHA256, Time: func() time.Time { return at }}
	if k.until.After(at) {
		c.SigLifetimeSecs = uint32(k.until.Sub(at) / time.Second) //nolint:gosec // 136 years
	}
	return c
}

// Public returns the public key, together with others in armor, as one armored
// block: not every program reads a file of several.
func (k *Key) Public(others ...[]byte) ([]byte, error) {
	keys := openpgp.EntityList{k.entity}
	for _, other := range others {
		more, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(other))
		if err != nil {
			return nil, fmt.Errorf("reading an OpenPGP key: %w", err)
		}
		keys = append(keys, more...)
	}
	return armored(openpgp.PublicKeyType, func(w io.Writer) error {
		for _, key := range keys {
			if err := key.Serialize(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// Clear returns a text with its signature in one document.
func (k *Key) Clear(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, k.entity.PrivateKey, k.config())
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// Detached returns the armored signature of some data.
func (k *Key) Detached(data []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, k.entity, bytes.NewReader(data), k.config()); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func armored(kind string, write func(io.Writer) error) ([]byte, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, kind, nil)
	if err == nil {
		err = write(w)
	}
	if err == nil {
		err = w.Close()
	}
	b.WriteByte('\n')
	return b.Bytes(), err
}
