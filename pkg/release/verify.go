package release

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	checksumsName = "checksums.txt"
	signatureName = "checksums.txt.sig"
	// maxChecksums bounds checksums.txt, in bytes.
	maxChecksums = 1 << 20
)

// Errors about a release that is not what it should be; match them with
// errors.Is.
var (
	// ErrNoKey: nobody said whose releases are to be trusted.
	ErrNoKey = errors.New("no release key is known: name release.pub of the maker with --release-key, or say --allow-unsigned if you trust the file itself")
	// ErrSignature: the key did not sign this release.
	ErrSignature = errors.New("the signature is not by the release key: the file is damaged, tampered with, or of another maker")
	// ErrContent: files are missing, damaged or too many.
	ErrContent = errors.New("the release is damaged or incomplete")
)

// compiledKey is the public key of releases: base64 of the DER form, which is
// the middle of release.pub in one line. Release builds set it with -ldflags;
// others trust no release by themselves.
var compiledKey string

// CompiledKey returns the key that this program trusts, or nil when it was
// built without one.
func CompiledKey() (*ecdsa.PublicKey, error) {
	if compiledKey == "" {
		return nil, nil
	}
	der, err := base64.StdEncoding.DecodeString(compiledKey)
	if err != nil {
		return nil, fmt.Errorf("reading the compiled-in release key: %w", err)
	}
	return parseKey(der)
}

// ReadKey reads a public key from a PEM file.
func ReadKey(path string) (*ecdsa.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the release key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("reading the release key: %s is not a public key in PEM", path)
	}
	return parseKey(block.Bytes)
}

func parseKey(der []byte) (*ecdsa.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(der)
	key, ok := public.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, errors.New("reading the release key: it is not a public key for ECDSA")
	}
	return key, nil
}

// verifySignature checks that key signed the list of checksums.
func verifySignature(sums, signature []byte, key *ecdsa.PublicKey) error {
	sum := sha256.Sum256(sums)
	if !ecdsa.VerifyASN1(key, sum[:], signature) {
		return ErrSignature
	}
	return nil
}

// optional reports whether a gateway can do without a file: what installs
// servers is large, and no device needs it.
func optional(name string) bool { return strings.HasPrefix(name, "fleet-server") }

// verify checks the signature, unless key is nil, and that dir holds the files
// that it covers, but for optional ones, and no other.
func verify(dir string, key *ecdsa.PublicKey) error {
	sums, err := readLimited(filepath.Join(dir, checksumsName), maxChecksums)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	if key != nil {
		signature, err := readLimited(filepath.Join(dir, signatureName), maxChecksums)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSignature, err)
		}
		if err := verifySignature(sums, signature, key); err != nil {
			return err
		}
	}
	want, err := parseSums(sums)
	if err != nil {
		return err
	}
	have, err := filesIn(dir)
	if err != nil {
		return err
	}
	return compare(dir, want, have)
}

// compare checks that the files in dir are those with these checksums.
func compare(dir string, want map[string]string, have []string) error {
	for _, name := range have {
		if name == checksumsName || name == signatureName {
			continue
		}
		sum, listed := want[name]
		if !listed {
			return fmt.Errorf("%w: %s is not in %s", ErrContent, name, checksumsName)
		}
		got, err := sumFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("verifying %s: %w", name, err)
		}
		if got != sum {
			return fmt.Errorf("%w: %s has another checksum", ErrContent, name)
		}
		delete(want, name)
	}
	for name := range want {
		if optional(name) {
			continue
		}
		return fmt.Errorf("%w: %s is missing", ErrContent, name)
	}
	return nil
}

var sumLine = regexp.MustCompile(`^([0-9a-f]{64}) [ *](.+)$`)

func parseSums(sums []byte) (map[string]string, error) {
	want := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(sums)); lines.Scan(); {
		m := sumLine.FindStringSubmatch(lines.Text())
		if m == nil || !validName(m[2]) || want[m[2]] != "" {
			return nil, fmt.Errorf("%w: bad line in %s: %.200q", ErrContent, checksumsName, lines.Text())
		}
		want[m[2]] = m[1]
	}
	return want, nil
}

// namePattern are the names in a release: flat, but for images.
var namePattern = regexp.MustCompile(`^(images/)?[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}$`)

func validName(name string) bool {
	return namePattern.MatchString(name) && (!strings.HasPrefix(name, imagesDir+"/") || strings.HasSuffix(name, ".tar"))
}

func filesIn(dir string) ([]string, error) {
	var names []string
	for _, sub := range []string{"", imagesDir} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !e.IsDir() {
				names = append(names, filepath.Join(sub, e.Name()))
			}
		}
	}
	return names, nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s is missing", filepath.Base(path))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", filepath.Base(path), limit)
	}
	return data, err
}
