package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"time"
)

// TTL is how long credentials work: as long as an agent waits for a pull, which
// asks for one layer after the other.
const TTL = time.Hour

// Keys tells which keys a device may come in with, the newest first. One that
// may not has none.
type Keys interface {
	Keys(device string) (fingerprints []string)
}

// Issuer makes and checks credentials. They are bound to the newest key that
// the device had: when that is revoked or replaced, they are worthless at once.
// Nothing of them is stored; with the end of the process they end, too.
type Issuer struct {
	keys   Keys
	now    func() time.Time
	secret []byte
}

// NewIssuer returns an issuer with a new secret.
func NewIssuer(keys Keys, now func() time.Time) *Issuer {
	secret := make([]byte, sha256.Size)
	rand.Read(secret) // never fails
	return &Issuer{keys, now, secret}
}

// Issue returns a password for a device, whose name is the user name, and false
// when it may have none.
func (i *Issuer) Issue(device string) (password string, ok bool) {
	keys := i.keys.Keys(device)
	if len(keys) == 0 {
		return "", false
	}
	expires := binary.BigEndian.AppendUint64(nil, uint64(i.now().Add(TTL).Unix()))
	return base64.RawURLEncoding.EncodeToString(append(expires, i.mac(device, keys[0], expires)...)), true
}

// Check reports whether a password is good.
func (i *Issuer) Check(device, password string) bool {
	data, err := base64.RawURLEncoding.DecodeString(password)
	if err != nil || len(data) != 8+sha256.Size {
		return false
	}
	expires, mac := data[:8], data[8:]
	if i.now().Unix() >= int64(binary.BigEndian.Uint64(expires)) {
		return false
	}
	return slices.ContainsFunc(i.keys.Keys(device), func(key string) bool { return hmac.Equal(mac, i.mac(device, key, expires)) })
}

// mac is over parts that have no zero byte but the last, whose length is fixed.
func (i *Issuer) mac(device, key string, expires []byte) []byte {
	h := hmac.New(sha256.New, i.secret)
	h.Write([]byte("fleet registry\x00" + device + "\x00" + key + "\x00"))
	h.Write(expires)
	return h.Sum(nil)
}
