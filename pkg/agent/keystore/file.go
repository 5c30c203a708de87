package keystore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
)

// pemFile is the type of a PKCS #8 key in PEM.
const pemFile = "PRIVATE KEY"

// File makes keys whose text is the key itself: whoever reads it has the key.
type File struct{}

type fileKey struct {
	*ecdsa.PrivateKey
	text string
}

func (k fileKey) Text() string { return k.text }

// Create implements Storage.
func (File) Create() (Key, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a device key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the device key: %w", err)
	}
	return fileKey{key, encode(der, pemFile)}, nil
}

// Load implements Storage.
func (File) Load(text string) (Key, error) {
	der, err := decode(text, pemFile)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrText, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: it is not an ECDSA key on P-256", ErrText)
	}
	return fileKey{key, text}, nil
}
