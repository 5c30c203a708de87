package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A sealed document begins with a checksum of all that follows it:
//
//	{"checksum":"<SHA-256 in hex>","epoch":…
//
// To an agent that knows no checksums it is one more key, which it ignores.
const (
	sealHead = `{"checksum":"`
	sealTail = `",`
	sealSize = len(sealHead) + 2*sha256.Size + len(sealTail)
)

var errChecksum = errors.New("its checksum is wrong")

// seal encodes v, whose form is an object with a key at least, under a checksum.
func seal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	rest := append(data[1:], '\n')
	sum := sha256.Sum256(rest)
	return fmt.Appendf(nil, "%s%x%s%s", sealHead, sum, sealTail, rest), nil
}

// isSealed reports whether data is a document with the right checksum.
func isSealed(data []byte) bool {
	if len(data) < sealSize || !bytes.HasPrefix(data, []byte(sealHead)) || string(data[sealSize-len(sealTail):sealSize]) != sealTail {
		return false
	}
	sum := sha256.Sum256(data[sealSize:])
	return string(data[len(sealHead):sealSize-len(sealTail)]) == hex.EncodeToString(sum[:])
}

// unseal decodes a document. What an earlier agent wrote has no checksum, and no key
// that is unknown here: a checksum whose name is damaged is one.
func unseal(data []byte, v any) error {
	if isSealed(data) {
		return json.Unmarshal(data, v)
	}
	if bytes.HasPrefix(data, []byte(sealHead)) {
		return errChecksum
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}
