// Package debsig checks who made a Debian package. dpkg does not: to apt a
// package is what an index says, and a gateway signs its own index. So each
// package of a release ends with a signature by the release's key, which the
// package before has on the device. It imports the standard library only.
package debsig

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

// A package is an ar archive. Its last member is the signature of all bytes
// before that member: ECDSA P-256 over SHA-256, in DER, in base64, and as many
// line feeds as make Size bytes. dpkg skips members with an underscore.
const (
	Magic  = "!<arch>\n"
	Header = "_fleet-release  0           0     0     100644  128       `\n"
	Size   = 128
)

// ErrSignature: the release's key did not sign the package.
var ErrSignature = errors.New("it is not signed by the key of the release that is installed; to install it all the same, use dpkg --install")

// ReadKey reads a public key in PEM.
func ReadKey(path string) (*ecdsa.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the release: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("reading the key of the release: %s is not in PEM", path)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("reading the key of the release: %s is not a public key for ECDSA", path)
	}
	return key, nil
}

// Verify checks that key signed the package in a file. Its error wraps
// ErrSignature, or comes from the disk.
func Verify(path string, key *ecdsa.PublicKey) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	signed := info.Size() - int64(len(Header)) - Size
	if signed < int64(len(Magic)) {
		return ErrSignature
	}
	sum, magic := sha256.New(), &first{}
	if _, err := io.CopyN(io.MultiWriter(sum, magic), f, signed); err != nil {
		return err
	}
	end, err := io.ReadAll(io.LimitReader(f, int64(len(Header))+Size))
	if err != nil {
		return err
	}
	if string(magic.bytes) != Magic || !verify(key, sum.Sum(nil), end) {
		return ErrSignature
	}
	return nil
}

// verify checks the last member.
func verify(key *ecdsa.PublicKey, sum, member []byte) bool {
	text, found := bytes.CutPrefix(member, []byte(Header))
	signature, err := base64.StdEncoding.DecodeString(string(bytes.TrimRight(text, "\n")))
	return found && len(text) == Size && err == nil && ecdsa.VerifyASN1(key, sum, signature)
}

// first keeps the first bytes of what is written.
type first struct{ bytes []byte }

func (f *first) Write(p []byte) (int, error) {
	if n := len(Magic) - len(f.bytes); n > 0 {
		f.bytes = append(f.bytes, p[:min(n, len(p))]...)
	}
	return len(p), nil
}
