package pki_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/pki"
)

func rotate(t testing.TB, p *pki.PKI, root bool, at time.Time) {
	t.Helper()
	if err := p.Rotate(root, at); err != nil {
		t.Fatal(err)
	}
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

func TestRotationReplacesWhatIssues(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := load(t, dir)
	root, before, old := p.Root.Cert(), p.Device.Cert(), device(t, p)
	rotate(t, p, false, now)
	for name, p := range map[string]*pki.PKI{"running": p, "after a restart": load(t, dir)} {
		if !p.Root.Cert().Equal(root) || len(p.Root.Certificates()) != 1 {
			t.Errorf("%s: the root changed", name)
		}
		if err := verify(old, p.Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
			t.Errorf("%s: a certificate from before is refused: %v", name, err)
		}
		fresh := device(t, p)
		if err := verify(fresh, p.Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := verify(fresh, pool(before), x509.ExtKeyUsageClientAuth, now); err == nil {
			t.Errorf("%s: the replaced authority still issues", name)
		}
		if err := verify(fresh, p.Operator.Pool(), x509.ExtKeyUsageClientAuth, now); err == nil {
			t.Errorf("%s: a device's certificate is good for operators", name)
		}
		if err := verify(sent(t, serving(t, p, hosts, now)), pool(root), x509.ExtKeyUsageServerAuth, now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Devices that pinned any root which is still kept accept what is served,
// however many came after it.
func TestNewRootIsTrustedByThoseWhoKnowAnOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := load(t, dir)
	roots := []*x509.Certificate{p.Root.Cert()}
	hashes := [][32]byte{p.RootHash()}
	for range 2 {
		rotate(t, p, true, now)
		roots = append([]*x509.Certificate{p.Root.Cert()}, roots...)
		hashes = append(hashes, p.RootHash())
	}
	for name, p := range map[string]*pki.PKI{"running": p, "after a restart": load(t, dir)} {
		chain := sent(t, serving(t, p, hosts, now))
		for i, root := range roots {
			if err := verify(chain, pool(root), x509.ExtKeyUsageServerAuth, now); err != nil {
				t.Errorf("%s: for who knows only the root before %d others: %v", name, i, err)
			}
		}
		if err := verify(chain, load(t, t.TempDir()).Root.Pool(), x509.ExtKeyUsageServerAuth, now); err == nil {
			t.Errorf("%s: another server's root is enough", name)
		}
		if diff := cmp.Diff(pki.EncodeChain(roots), p.RootsPEM()); diff != "" {
			t.Errorf("%s: roots (-want +got):\n%s", name, diff)
		}
		for _, h := range hashes {
			if !p.HasRoot(h) {
				t.Errorf("%s: a token from before is refused", name)
			}
		}
		if p.HasRoot(load(t, t.TempDir()).RootHash()) || p.RootHash() != hashes[2] {
			t.Errorf("%s: the hash in tokens is wrong", name)
		}
	}
	// What is signed across is for the way to the old root only.
	if err := verify(device(t, p), pool(roots[2]), x509.ExtKeyUsageClientAuth, now); err == nil {
		t.Error("a device's certificate leads to an old root by itself")
	}
}

var errCut = errors.New("power cut")

// A power cut before any file that a rotation writes leaves a PKI that works,
// with everything issued before, and that can be rotated.
func TestRotationSurvivesPowerCuts(t *testing.T) {
	t.Parallel()
	for name, root := range map[string]bool{"issuing authorities": false, "root": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cut := true
			for step := 0; cut; step++ {
				dir := t.TempDir()
				p := load(t, dir)
				rotate(t, p, true, now) // so that there is something to keep
				pinned, old := p.Root.Certificates()[1], device(t, p)
				serving(t, p, hosts, now)
				written := 0
				cut = false
				p.OnWrite(func(string) error {
					if written == step {
						cut = true
						return errCut
					}
					written++
					return nil
				})
				if err := p.Rotate(root, now); cut != errors.Is(err, errCut) {
					t.Fatalf("step %d: %v", step, err)
				}
				for range 2 {
					p = load(t, dir)
					if err := verify(old, p.Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
						t.Errorf("step %d: %v", step, err)
					}
					if err := verify(sent(t, serving(t, p, hosts, now)), pool(pinned), x509.ExtKeyUsageServerAuth, now); err != nil {
						t.Errorf("step %d: %v", step, err)
					}
					if err := verify(device(t, p), p.Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
						t.Errorf("step %d: %v", step, err)
					}
					rotate(t, p, root, now)
				}
			}
		})
	}
}

// What a rotation that did not happen left behind goes at the next start.
func TestRemainsOfARotationAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := load(t, dir)
	before := files(t, dir)
	p.OnWrite(func(path string) error {
		if filepath.Base(path) == pki.IndexName {
			return errCut
		}
		return nil
	})
	if err := p.Rotate(true, now); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if len(files(t, dir)) != len(before)+9 {
		t.Errorf("it left %v", files(t, dir))
	}
	load(t, dir)
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// A directory as it was before there was an index is taken over as it is.
func TestDirectoryWithoutIndexIsTakenOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := load(t, dir)
	if err := os.Remove(filepath.Join(dir, pki.IndexName)); err != nil {
		t.Fatal(err)
	}
	again := load(t, dir)
	if again.RootHash() != first.RootHash() || !again.Device.Cert().Equal(first.Device.Cert()) {
		t.Error("the authorities are others")
	}
	rotate(t, again, true, now)
	if !load(t, dir).HasRoot(first.RootHash()) {
		t.Error("the root is not trusted any more")
	}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPruneKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	const year = 365 * day
	before, after := now.Add(-day), now.Add(day)
	for name, tc := range map[string]struct {
		uses  pki.Uses
		at    time.Time
		force bool
		kept  []pki.Kept
	}{
		"at once": {pki.Uses{}, after, false, []pki.Kept{{Name: "root", Until: now.Add(year)}, {Name: "operator", Until: now.Add(year)}}},
		"a device from before": {
			pki.Uses{Devices: map[string]time.Time{"b": before, "a": before, "c": after}}, now.Add(year), false,
			[]pki.Kept{{Name: "root", Devices: []string{"a", "b"}}, {Name: "device", Devices: []string{"a", "b"}}},
		},
		"a device of the moment": {
			pki.Uses{Devices: map[string]time.Time{"a": now}}, now.Add(year), false,
			[]pki.Kept{{Name: "root", Devices: []string{"a"}}, {Name: "device", Devices: []string{"a"}}},
		},
		"a device of which nothing is known": {
			pki.Uses{Devices: map[string]time.Time{"a": {}}}, now.Add(year), false,
			[]pki.Kept{{Name: "root", Devices: []string{"a"}}, {Name: "device", Devices: []string{"a"}}},
		},
		"devices that renewed": {pki.Uses{Devices: map[string]time.Time{"a": after}}, now.Add(year), false, nil},
		"a token from before":  {pki.Uses{Tokens: map[string]time.Time{"t": before}}, now.Add(year), false, []pki.Kept{{Name: "root", Tokens: []string{"t"}}}},
		"by force":             {pki.Uses{Devices: map[string]time.Time{"a": before}, Tokens: map[string]time.Time{"t": before}}, now, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := load(t, dir)
			old, root := device(t, p), p.RootHash()
			rotate(t, p, true, now)
			serving(t, p, hosts, now)
			forgotten, kept, err := p.Prune(tc.uses, tc.force, tc.at)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.kept, kept); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if len(forgotten)+len(kept) != 4 {
				t.Errorf("forgotten: %v", forgotten)
			}
			keeps := func(name string) bool {
				for _, k := range tc.kept {
					if k.Name == name {
						return true
					}
				}
				return false
			}
			for _, role := range []string{"root", "server", "device", "operator"} {
				if _, err := os.Stat(filepath.Join(dir, role+".key")); (err == nil) != keeps(role) {
					t.Errorf("the old key of %s: %v", role, err)
				}
			}
			for _, p := range []*pki.PKI{p, load(t, dir)} {
				if p.HasRoot(root) != keeps("root") {
					t.Errorf("the old root is trusted: %v", p.HasRoot(root))
				}
				if err := verify(old, p.Device.Pool(), x509.ExtKeyUsageClientAuth, now); (err == nil) != keeps("device") {
					t.Errorf("the old device authority: %v", err)
				}
				chain := sent(t, serving(t, p, hosts, now))
				if err := verify(chain, p.Root.Pool(), x509.ExtKeyUsageServerAuth, now); err != nil {
					t.Error(err)
				}
				if way := len(chain) == 3; way != keeps("root") {
					t.Errorf("%d certificates are sent", len(chain))
				}
			}
		})
	}
}

func TestPruneSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := load(t, dir)
	old := device(t, p)
	rotate(t, p, true, now)
	p.OnWrite(func(string) error { return errCut })
	if _, _, err := p.Prune(pki.Uses{}, true, now); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if err := verify(old, load(t, dir).Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
		t.Error(err)
	}
}

// Whatever is rotated, pruned and restarted, in any order: every root that is
// kept accepts what is served, and every device that counts is let in.
func TestRotationsAndPrunesInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp("", "pki")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		p, at := load(t, dir), now
		type holder struct {
			chain  []*x509.Certificate
			issued time.Time
			pinned *x509.Certificate
		}
		holders := map[string]*holder{}
		for _, step := range rapid.SliceOfN(rapid.SampledFrom([]string{"rotate", "root", "prune", "restart", "a", "b", "year"}), 1, 12).Draw(r, "steps") {
			at = at.Add(time.Hour)
			switch step {
			case "rotate", "root":
				rotate(t, p, step == "root", at)
			case "prune":
				uses := pki.Uses{Devices: map[string]time.Time{}}
				for name, h := range holders {
					uses.Devices[name] = h.issued
				}
				if _, _, err := p.Prune(uses, false, at); err != nil {
					r.Fatal(err)
				}
			case "restart":
				p = load(t, dir)
			case "year":
				at = at.Add(366 * day)
			default:
				holders[step] = &holder{deviceAt(t, p, at), at, p.Root.Cert()}
			}
			chain := sent(t, serving(t, p, hosts, at))
			for name, h := range holders {
				if err := verify(h.chain, p.Device.Pool(), x509.ExtKeyUsageClientAuth, h.issued); err != nil {
					r.Errorf("device %s is refused: %v", name, err)
				}
				if err := verify(chain, pool(h.pinned), x509.ExtKeyUsageServerAuth, at); err != nil {
					r.Errorf("device %s refuses the server: %v", name, err)
				}
			}
			for _, root := range p.Root.Certificates() {
				if err := verify(chain, pool(root), x509.ExtKeyUsageServerAuth, at); err != nil {
					r.Errorf("who knows %s only: %v", root.Subject, err)
				}
			}
		}
	})
}
