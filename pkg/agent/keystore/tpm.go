package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// pemTPM is the type of a TPM's key in PEM. The content is the ASN.1 structure
// TPMKey that OpenSSL's TPM 2.0 provider and others read.
const pemTPM = "TSS2 PRIVATE KEY"

// loadable is the object identifier of a key that is loaded below its parent.
var loadable = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// tpmText is TPMKey. Public and Private are TPM2B structures.
type tpmText struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte
	Private   []byte
}

// template is that of a device key: it never leaves the TPM in clear, signs
// what it is given, and has no password that could be locked out.
var template = tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
}

var ecdsaSHA256 = tpm2.TPMTSigScheme{
	Scheme:  tpm2.TPMAlgECDSA,
	Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
}

// TPM makes keys below the storage root key of a TPM 2.0. It opens the TPM for
// each use: a connection needs one signature, and a device that was suspended or
// whose TPM was reset would hold a stale handle.
type TPM struct {
	// Path is a device, or the unix socket of a software TPM.
	Path string

	mu sync.Mutex // one use at a time: a TPM has room for three objects
}

type tpmKey struct {
	tpm       *TPM
	public    *ecdsa.PublicKey
	inPublic  tpm2.TPM2BPublic
	inPrivate tpm2.TPM2BPrivate
	text      string
}

// Create implements Storage.
func (t *TPM) Create() (Key, error) {
	var made *tpm2.CreateResponse
	err := t.use(func(tpm transport.TPM, parent tpm2.AuthHandle) (err error) {
		made, err = tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template)}.Execute(tpm)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("making a device key in the TPM: %w", err)
	}
	der, err := asn1.Marshal(tpmText{
		Type: loadable, EmptyAuth: true, Parent: int64(tpm2.TPMRHOwner),
		Public: tpm2.Marshal(made.OutPublic), Private: tpm2.Marshal(made.OutPrivate),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the TPM's key: %w", err)
	}
	return t.Load(encode(der, pemTPM))
}

// Load implements Storage.
func (t *TPM) Load(text string) (Key, error) {
	der, err := decode(text, pemTPM)
	if err != nil {
		return nil, err
	}
	var parsed tpmText
	if rest, err := asn1.Unmarshal(der, &parsed); err != nil || len(rest) > 0 || !parsed.Type.Equal(loadable) || parsed.Parent != int64(tpm2.TPMRHOwner) {
		return nil, fmt.Errorf("%w: not a key below a TPM's storage root", ErrText)
	}
	inPublic, err := tpm2.Unmarshal[tpm2.TPM2BPublic](parsed.Public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrText, err)
	}
	inPrivate, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](parsed.Private)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrText, err)
	}
	public, err := publicKey(inPublic)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrText, err)
	}
	return &tpmKey{tpm: t, public: public, inPublic: *inPublic, inPrivate: *inPrivate, text: text}, nil
}

func publicKey(b *tpm2.TPM2BPublic) (*ecdsa.PublicKey, error) {
	content, err := b.Contents()
	if err != nil {
		return nil, err
	}
	public, err := tpm2.Pub(*content)
	if err != nil {
		return nil, err
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return key, nil
}

// Text implements Key.
func (k *tpmKey) Text() string { return k.text }

// Public implements crypto.Signer.
func (k *tpmKey) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer. The TPM has its own source of random numbers.
func (k *tpmKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("signing with the TPM: the key signs SHA-256 only, not %v", opts.HashFunc())
	}
	var signed *tpm2.SignResponse
	err := k.tpm.use(func(tpm transport.TPM, parent tpm2.AuthHandle) (err error) {
		loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: k.inPrivate, InPublic: k.inPublic}.Execute(tpm)
		if errors.Is(err, tpm2.TPMRCIntegrity) {
			return fmt.Errorf("%w: %w", ErrForeignTPM, err)
		}
		if err != nil {
			return err
		}
		defer flush(tpm, loaded.ObjectHandle)
		signed, err = tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)},
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   ecdsaSHA256,
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(tpm)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	signature, err := signed.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(signature.SignatureR.Buffer), new(big.Int).SetBytes(signature.SignatureS.Buffer),
	})
}

// use calls f with the storage root key, which the TPM makes anew each time: it
// is the same for as long as the TPM is not cleared.
func (t *TPM) use(f func(tpm transport.TPM, parent tpm2.AuthHandle) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tpm, err := t.open()
	if err != nil {
		return err
	}
	defer tpm.Close()
	primary, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
	switch {
	case errors.Is(err, tpm2.TPMRCBadAuth):
		return errors.New("the TPM's owner hierarchy has a password: remove it with tpm2_changeauth, or use keyStorage: file")
	case err != nil:
		if _, answered := errors.AsType[tpm2.TPMRC](err); answered {
			return fmt.Errorf("deriving the TPM's storage root key: %w", err)
		}
		return fmt.Errorf("%w at %s: %w", ErrNoTPM, t.Path, err)
	}
	defer flush(tpm, primary.ObjectHandle)
	return f(tpm, tpm2.AuthHandle{Handle: primary.ObjectHandle, Name: primary.Name, Auth: tpm2.PasswordAuth(nil)})
}

func (t *TPM) open() (transport.TPMCloser, error) {
	info, err := os.Stat(t.Path)
	var tpm transport.TPMCloser
	if err == nil && info.Mode()&os.ModeSocket != 0 {
		tpm, err = linuxudstpm.Open(t.Path)
	} else if err == nil {
		tpm, err = linuxtpm.Open(t.Path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s may not be used by this user: add it to the group of the device, which is tss in most distributions", ErrNoTPM, t.Path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s does not exist: switch the TPM on in the firmware, correct tpm.device, or use keyStorage: file", ErrNoTPM, t.Path)
	case err != nil:
		return nil, fmt.Errorf("%w at %s: %w", ErrNoTPM, t.Path, err)
	}
	return tpm, nil
}

// flush makes room in the TPM. Where it fails the resource manager does so when
// the device is closed.
func flush(tpm transport.TPM, handle tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: handle}.Execute(tpm)
}
