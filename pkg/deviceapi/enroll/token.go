package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// tokenIDSize is the length of a token's id in bytes: enough for the ids of
// one server to differ.
const tokenIDSize = 5

// NewToken makes a token with a random id and secret for the server whose root
// key has the given hash.
func NewToken(rootHash [sha256.Size]byte) wire.Token {
	t := wire.Token{CAHash: rootHash}
	var id [tokenIDSize]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	_, _ = rand.Read(t.Secret[:])
	t.ID = strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(id[:]))
	return t
}
