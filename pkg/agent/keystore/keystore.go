// Package keystore makes the device's private keys and brings them back: in a
// file, or bound to the device's TPM 2.0.
//
// A key has a text, which its holder keeps beside the certificate so that a
// power cut never leaves a pair that does not match. The text of a file's key is
// the key; that of a TPM's key is of use to this TPM only. A key exists nowhere
// else: who forgets the text has removed the key.
package keystore

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
)

// Errors of a Storage; match them with errors.Is.
var (
	// ErrText: the text is not that of a key.
	ErrText = errors.New("the device's key is damaged: enroll again with --force")
	// ErrNoTPM: there is no TPM that answers.
	ErrNoTPM = errors.New("no TPM 2.0 answers")
	// ErrForeignTPM: the TPM does not know the key.
	ErrForeignTPM = errors.New("the device's key is of another TPM, or this one was cleared: enroll again with --force")
)

// Key is an ECDSA key on curve P-256. Its Public is an *ecdsa.PublicKey; it
// signs SHA-256 digests in ASN.1. Errors of Sign may wrap ErrNoTPM and
// ErrForeignTPM.
type Key interface {
	crypto.Signer
	// Text is what Load makes the key of again. It is a secret.
	Text() string
}

// Storage makes keys of one kind.
type Storage interface {
	// Create makes a new key. Errors may wrap ErrNoTPM.
	Create() (Key, error)
	// Load returns the key that has the text. It asks no TPM: an agent whose TPM
	// does not answer yet can begin with what needs no key. Errors wrap ErrText.
	Load(text string) (Key, error)
}

// Any makes keys with New, and loads those of every kind. So a device that is
// told to use its TPM goes on with the key that it has, and has one of the TPM
// from the next renewal on.
type Any struct {
	New Storage
	TPM *TPM
}

// Create implements Storage.
func (a Any) Create() (Key, error) { return a.New.Create() }

// Load implements Storage.
func (a Any) Load(text string) (Key, error) {
	if block, _ := pem.Decode([]byte(text)); block != nil && block.Type == pemTPM {
		return a.TPM.Load(text)
	}
	return File{}.Load(text)
}

// decode returns the content of a PEM text that has one block of this type.
func decode(text, typ string) ([]byte, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != typ || len(rest) > 0 {
		return nil, fmt.Errorf("%w: it holds no PEM block %q", ErrText, typ)
	}
	return block.Bytes, nil
}

func encode(der []byte, typ string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
}
