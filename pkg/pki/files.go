package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

// IndexName is the file that says which authorities are in force. Writing it
// is the one step that makes a rotation happen: files that it does not name
// are left over.
const IndexName = "authorities.json"

// ErrIncomplete: some files of an authority exist and some do not.
var ErrIncomplete = errors.New("certificate authority is incomplete")

const (
	roleRoot     = "root"
	roleServer   = "server"
	roleDevice   = "device"
	roleOperator = "operator"
)

// roles are in the order of their creation: the root signs the others.
var roles = []string{roleRoot, roleServer, roleDevice, roleOperator}

// rotated matches the files of all generations but the first.
var rotated = regexp.MustCompile(`^(root|server|device|operator)-[0-9a-f]{8}\.(crt|key|cross\.crt)$`)

// index lists the generations of each role, the newest first.
type index map[string][]entry

// entry is a generation: files "<name>.crt" and "<name>.key", and
// "<name>.cross.crt" for a root that followed another.
type entry struct {
	Name string `json:"name"`
	// Replaced is when a newer one took over; zero for the newest.
	Replaced time.Time `json:"replaced,omitzero"`
}

// Load reads the authorities from dir and creates those of a first start.
func Load(dir string, now time.Time) (*PKI, error) {
	p := &PKI{dir: dir, write: atomicfile.Write}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the PKI directory: %w", err)
	}
	data, err := os.ReadFile(p.path(IndexName))
	if errors.Is(err, fs.ErrNotExist) {
		return p, p.firstStart(now)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the authorities: %w", err)
	}
	if p.index, err = decodeIndex(data); err != nil {
		return nil, fmt.Errorf("reading %s: %w: restore it from a backup", p.path(IndexName), err)
	}
	return p, errors.Join(p.read(), p.sweep())
}

func decodeIndex(data []byte) (index, error) {
	var i index
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&i); err != nil {
		return nil, err
	}
	for _, role := range roles {
		if len(i[role]) == 0 {
			return nil, fmt.Errorf("it names no %s authority", role)
		}
	}
	return i, nil
}

// firstStart creates what is missing, as after a power cut, and takes over a
// directory from before there was an index.
func (p *PKI) firstStart(now time.Time) error {
	if err := p.checkRemains(); err != nil {
		return err
	}
	p.index = index{}
	var root *generation
	for _, role := range roles {
		e := entry{Name: role}
		_, err := os.Stat(p.path(e.certFile()))
		if errors.Is(err, fs.ErrNotExist) {
			_, err = p.create(role, e, root, now)
		}
		if err != nil {
			return err
		}
		g, err := p.readGeneration(e)
		if err != nil {
			return err
		}
		if role == roleRoot {
			root = &g
		}
		p.index[role] = []entry{e}
	}
	if err := p.read(); err != nil {
		return err
	}
	return p.writeIndex(p.index)
}

// checkRemains refuses a directory that has lost what a first start would make
// anew, while what depends on it is still there.
func (p *PKI) checkRemains() error {
	files, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("reading the PKI directory: %w", err)
	}
	have := map[string]bool{}
	for _, f := range files {
		have[f.Name()] = true
		if rotated.MatchString(f.Name()) {
			return fmt.Errorf("%w: %s exists but %s does not: restore it from a backup", ErrIncomplete, p.path(f.Name()), p.path(IndexName))
		}
	}
	for _, role := range roles[1:] {
		if below := (entry{Name: role}).certFile(); have[below] && !have[roleRoot+".crt"] {
			return fmt.Errorf("%w: %s exists but %s does not: restore it from a backup", ErrIncomplete, p.path(below), p.path(roleRoot+".crt"))
		}
	}
	return nil
}

// create makes the key and the certificate of a generation, below a root or as
// one. The key is written first: without a certificate it was never used.
func (p *PKI) create(role string, e entry, root *generation, now time.Time) (generation, error) {
	key, err := NewKey()
	if err != nil {
		return generation{}, fmt.Errorf("generating the %s key: %w", role, err)
	}
	g := generation{entry: e, key: key}
	if root == nil {
		g.cert, err = sign(authorityTemplate(e.Name, now), nil, key, &key.PublicKey, now.Add(rootValidity))
	} else {
		tmpl := authorityTemplate(e.Name, now)
		tmpl.MaxPathLenZero = true
		g.cert, err = sign(tmpl, root.cert, root.key, &key.PublicKey, now.Add(authorityValidity))
	}
	if err != nil {
		return generation{}, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return generation{}, err
	}
	if err := p.write(p.path(e.keyFile()), keyPEM, 0o600); err != nil {
		return generation{}, err
	}
	return g, p.write(p.path(e.certFile()), EncodeChain([]*x509.Certificate{g.cert}), 0o600)
}

// authorityTemplate is a certificate that may sign others. Each generation has
// a name of its own, since some verifiers tell authorities apart by name.
func authorityTemplate(name string, now time.Time) *x509.Certificate {
	role, id, _ := strings.Cut(name, "-")
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: strings.TrimSpace("fleet " + role + " authority " + id)},
		NotBefore:             now.Add(-servingBackdate),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// read reads every generation that the index names and puts them in force.
func (p *PKI) read() error {
	generations := map[string][]generation{}
	for _, role := range roles {
		for i, e := range p.index[role] {
			g, err := p.readGeneration(e)
			if err != nil {
				return err
			}
			if role == roleRoot && i < len(p.index[role])-1 {
				if g.cross, err = p.readCert(e.crossFile()); err != nil {
					return err
				}
			}
			generations[role] = append(generations[role], g)
		}
	}
	p.use(generations)
	return nil
}

func (p *PKI) readGeneration(e entry) (generation, error) {
	cert, err := p.readCert(e.certFile())
	if err != nil {
		return generation{}, err
	}
	keyPEM, err := os.ReadFile(p.path(e.keyFile()))
	if err != nil {
		return generation{}, p.missing(e.keyFile(), err)
	}
	key, err := DecodeKey(keyPEM)
	if err != nil {
		return generation{}, fmt.Errorf("reading %s: %w", p.path(e.keyFile()), err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return generation{}, fmt.Errorf("%w: %s does not belong to %s: restore both from the same backup", ErrIncomplete, p.path(e.keyFile()), p.path(e.certFile()))
	}
	return generation{entry: e, cert: cert, key: key}, nil
}

func (p *PKI) readCert(name string) (*x509.Certificate, error) {
	data, err := os.ReadFile(p.path(name))
	if err != nil {
		return nil, p.missing(name, err)
	}
	cert, err := DecodeCert(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.path(name), err)
	}
	return cert, nil
}

func (p *PKI) missing(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s does not exist: restore it from a backup", ErrIncomplete, p.path(name))
	}
	return fmt.Errorf("reading the authorities: %w", err)
}

func (p *PKI) writeIndex(i index) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return p.write(p.path(IndexName), append(data, '\n'), 0o600)
}

// sweep removes the files of generations that the index does not name: what
// was pruned, and what a power cut left of a rotation.
func (p *PKI) sweep() error {
	keep := map[string]bool{}
	var stale []string
	for _, role := range roles {
		first := entry{Name: role}
		stale = append(stale, first.keyFile(), first.certFile())
		for _, e := range p.index[role] {
			keep[e.keyFile()], keep[e.certFile()], keep[e.crossFile()] = true, true, true
		}
	}
	files, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("reading the PKI directory: %w", err)
	}
	for _, f := range files {
		if rotated.MatchString(f.Name()) {
			stale = append(stale, f.Name())
		}
	}
	for _, name := range stale {
		if keep[name] {
			continue
		}
		if err := os.Remove(p.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing what is left of an authority: %w", err)
		}
	}
	return nil
}

func (p *PKI) path(name string) string { return filepath.Join(p.dir, name) }

func (e entry) certFile() string  { return e.Name + ".crt" }
func (e entry) keyFile() string   { return e.Name + ".key" }
func (e entry) crossFile() string { return e.Name + ".cross.crt" }
