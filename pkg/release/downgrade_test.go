package release_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/test/releasetest"
)

// dated is a release of a version and a date; without a date it is one of
// before there was release.txt.
func (g *gateway) dated(version, date, more string) string {
	g.t.Helper()
	return g.release(version, func(files map[string][]byte) {
		delete(files, releasetest.About)
		if date != "" {
			files[releasetest.About] = fmt.Appendf(nil, "Version: %s\nDate: %sT00:00:00Z\nChannels: stable\n%s", version, date, more)
		}
	})
}

func (g *gateway) serves(want string) {
	g.t.Helper()
	if got := strings.TrimSpace(g.body("/packages/mirror/stable/version")); got != want {
		g.t.Errorf("version %s is served, want %s", got, want)
	}
}

func TestOldReleasesAreRefused(t *testing.T) {
	t.Parallel()
	type import_ struct {
		version, date string
		refused       bool
	}
	for name, imports := range map[string][]import_{
		"an older version":                 {{"9.9", "2027-01-02", false}, {"9.8", "2027-01-01", true}},
		"an older version of a later date": {{"9.9", "2027-01-02", false}, {"9.8", "2027-01-03", true}},
		"numbers are no texts":             {{"9.9", "2027-01-02", false}, {"9.10", "2027-01-02", false}, {"9.9", "2027-01-02", true}},
		"a withdrawn version":              {{"9.8", "2027-01-02", false}, {"9.9", "2027-01-01", true}},
		"a candidate":                      {{"9.9", "2027-01-02", false}, {"9.9~rc.1", "2027-01-02", true}},
		"the same again":                   {{"9.9", "2027-01-02", false}, {"9.9", "2027-01-02", false}},
		"without dates":                    {{"9.9", "", false}, {"9.8", "", true}, {"9.9", "", false}},
		"with a date after none":           {{"9.8", "", false}, {"9.9", "2027-01-02", false}, {"9.9.1", "", true}},
		"older than the server":            {{"1.0", "2027-01-02", true}, {"1.1", "2027-01-02", false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			served := ""
			for _, i := range imports {
				dir := g.dated(i.version, i.date, "")
				change := func(i *release.Import) { i.Installed = "1.1" }
				_, err := g.importAs(dir, change)
				if i.refused != errors.Is(err, release.ErrDowngrade) || !i.refused && err != nil {
					t.Fatalf("version %s of %s: the error is %v", i.version, i.date, err)
				}
				if !i.refused {
					served = i.version
				}
				if served != "" {
					g.serves(served)
				}
				if i.refused { // the control
					_, err := g.importAs(dir, func(i *release.Import) { change(i); i.AllowDowngrade = true })
					must(t, err)
					served = i.version
					g.serves(served)
				}
			}
		})
	}
}

// A server that was built by hand has no version to compare with.
func TestAnyReleaseIsNoOlderThanDev(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("0.1.0", nil), func(i *release.Import) { i.Installed = "dev" })
	must(t, err)
}

func TestReleasesThatContradictThemselves(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for name, about := range map[string]string{
		"another version": "Version: 2.0\nDate: 2027-01-01T00:00:00Z\n",
		"no version":      "Date: 2027-01-01T00:00:00Z\n",
		"no date":         "Version: 1.0\n",
		"a date of words": "Version: 1.0\nDate: today\n",
		"a date twice":    "Version: 1.0\nDate: 2027-01-01T00:00:00Z\nDate: 2028-01-01T00:00:00Z\n",
		"no lines":        "x",
		"nothing":         "",
	} {
		_, err := g.importAs(g.release("1.0", func(files map[string][]byte) { files[releasetest.About] = []byte(about) }), nil)
		if !errors.Is(err, release.ErrContent) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	_, err := g.importAs(g.dated("1.0", "2027-01-01", "Later: unknown\n"), nil)
	must(t, err)
}

// TestOldImagesAreRefused: a release may be bundled again with newer images.
func TestOldImagesAreRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	var taken []string
	take := func(allow bool, dir string) error {
		taken = nil
		must(t, os.MkdirAll(filepath.Join(dir, "images"), 0o700))
		_, err := g.importAs(dir, func(i *release.Import) {
			i.AllowDowngrade = allow
			i.Images = func(path string) error { taken = append(taken, filepath.Base(path)); return nil }
		})
		return err
	}
	bundle := func(version, bundled string) string {
		return g.release(version, func(files map[string][]byte) {
			files["images/web.tar"] = []byte(bundled)
			if bundled != "" {
				files[releasetest.About] = append(files[releasetest.About], "Bundled: "+bundled+"T00:00:00Z\n"...)
			}
		})
	}
	for _, tt := range []struct {
		what, dir      string
		allow, refused bool
	}{
		{"without a time", bundle("1.0", ""), false, false},
		{"the first", bundle("1.0", "2027-01-02"), false, false},
		{"an older one of the same version", bundle("1.0", "2027-01-01"), false, true},
		{"the first again", bundle("1.0", "2027-01-02"), false, false},
		{"the release alone", g.release("1.0", nil), false, false},
		{"an older one after the release alone", bundle("1.0", "2027-01-01"), false, true},
		{"an older one of a newer version", bundle("1.1", "2027-01-01"), false, true},
		{"one without a time after some with one", bundle("1.1", ""), false, true},
		{"a newer one", bundle("1.1", "2027-01-03"), false, false},
		{"an older one that is wanted", bundle("1.1", "2027-01-01"), true, false},
		{"one that is newer than that", bundle("1.1", "2027-01-02"), false, false},
	} {
		err := take(tt.allow, tt.dir)
		if tt.refused != errors.Is(err, release.ErrDowngrade) || !tt.refused && err != nil {
			t.Errorf("%s: the error is %v", tt.what, err)
		}
		if tt.refused && len(taken) > 0 {
			t.Errorf("%s: %v are taken over", tt.what, taken)
		}
	}
	if len(taken) != 1 {
		t.Errorf("%v are taken over", taken)
	}
}

// An old release with images leaves the tags of images alone.
func TestOldReleasesBringNoImages(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("9.9", nil), nil)
	must(t, err)
	old := g.release("9.8", func(files map[string][]byte) { files["images/web.tar"] = []byte("old") })
	if _, err := g.importAs(old, nil); !errors.Is(err, release.ErrDowngrade) {
		t.Errorf("the error is %v", err)
	}
}

func TestKeysAreApart(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	both := g.keys()
	for path, want := range map[string]string{"/packages/gateway.asc": "fleet gateway", "/packages/packages.asc": "fleet packages"} {
		ring := readKeys(t, g.body(path))
		if len(ring) != 1 || ring[0].PrimaryIdentity().UserId.Name != want {
			t.Errorf("%s has %d keys", path, len(ring))
		}
	}
	if len(both) != 2 {
		t.Errorf("keys.asc has %d keys", len(both))
	}
	// A release without a key for packages leaves none of the release before.
	_, err = g.importAs(g.release("1.0.1", func(files map[string][]byte) {
		maps.DeleteFunc(files, func(name string, _ []byte) bool {
			return name == "packages.asc" || strings.HasPrefix(name, "repodata-")
		})
	}), nil)
	must(t, err)
	g.status(404, "/packages/packages.asc")
}

// clock is one that a test sets.
type clock struct {
	now  time.Time
	sane error
}

func (c *clock) Now() time.Time { return c.now }
func (c *clock) Sane() error    { return c.sane }

var errInsane = errors.New("the clock is wrong")

const day = 24 * time.Hour

// signed is a gateway with a release that was imported by a clock.
func signed(t *testing.T, c *clock) *gateway {
	t.Helper()
	g := newGateway(t)
	_, err := g.importAs(g.dated("1.0", "2026-06-01", ""), func(i *release.Import) { i.Now, i.Sane = c.Now, c.Sane })
	must(t, err)
	return g
}

// term reads from the signed index what it says of the time.
func (g *gateway) term() (date, until time.Time) {
	g.t.Helper()
	text := g.clearText("/packages/apt/dists/stable/InRelease")
	if text != g.body("/packages/apt/dists/stable/Release") {
		g.t.Error("InRelease is not Release")
	}
	for _, line := range strings.Split(text, "\n") {
		for name, at := range map[string]*time.Time{"Date: ": &date, "Valid-Until: ": &until} {
			if value, ok := strings.CutPrefix(line, name); ok {
				var err error
				*at, err = time.Parse("Mon, 02 Jan 2006 15:04:05 UTC", value)
				must(g.t, err)
			}
		}
	}
	return date, until
}

func TestSignaturesAreRenewed(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	c := &clock{now: begin}
	g := signed(t, c)
	dated := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		what    string
		now     time.Time
		sane    error
		renewed bool
		until   time.Time
	}{
		{"at once", begin, nil, false, begin.Add(30 * day)},
		{"nine days later", begin.Add(9 * day), nil, false, begin.Add(30 * day)},
		{"eleven days later", begin.Add(11 * day), nil, true, begin.Add(41 * day)},
		{"a battery is empty: devices must not be cut off", begin.Add(11 * day), errInsane, true, begin.Add(376 * day)},
		{"and again", begin.Add(12 * day), errInsane, false, begin.Add(376 * day)},
		{"the clock is right again", begin.Add(60 * day), nil, true, begin.Add(90 * day)},
		{"it was switched off", begin.Add(300 * day), nil, true, begin.Add(330 * day)},
		{"the clock is set back by a year, and believed", begin.Add(-65 * day), nil, true, begin.Add(-35 * day)},
	} {
		c.now, c.sane = tt.now, tt.sane
		until, err := g.store.Renew(c)
		must(t, err)
		if until.IsZero() == tt.renewed {
			t.Errorf("%s: renewed until %s", tt.what, until)
		}
		date, valid := g.term()
		if !valid.Equal(tt.until) {
			t.Errorf("%s: valid until %s, want %s", tt.what, valid, tt.until)
		}
		// No clock of the gateway is in the date, unless it is of tomorrow.
		if want := dated; date.After(tt.now) && tt.sane == nil || tt.now.After(dated) && !date.Equal(want) {
			t.Errorf("%s: the date is %s, want %s", tt.what, date, want)
		}
	}
}

// TestRenewalsReplaceOnlySignatures: everything else is the same file, and what
// was opened before is whole.
func TestRenewalsReplaceOnlySignatures(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	c := &clock{now: begin}
	g := signed(t, c)
	current := filepath.Join(g.dir, "release", "current", "www")
	deb := filepath.Join("apt", "pool", "fleet-agent_1.0_"+runtime.GOARCH+".deb")
	before, err := os.Stat(filepath.Join(current, deb))
	must(t, err)
	old, err := os.Open(filepath.Join(current, "apt", "dists", "stable", "InRelease"))
	must(t, err)
	defer old.Close()
	oldInfo, err := old.Stat()
	must(t, err)
	index, signature := g.repomd()
	c.now = begin.Add(20 * day)
	if until, err := g.store.Renew(c); err != nil || until.IsZero() {
		t.Fatalf("renewed until %s, %v", until, err)
	}
	after, err := os.Stat(filepath.Join(current, deb))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("a package was copied")
	}
	if again, err := old.Stat(); err != nil || again.Size() != oldInfo.Size() {
		t.Errorf("what was opened before is now %v, %v", again, err)
	}
	newIndex, newSignature := g.repomd()
	if newIndex != index || newSignature != signature {
		t.Error("the index of dnf changed, or its signature did")
	}
	g.serves("1.0")
	g.body("/packages/gateway.asc")
	g.body("/install.sh")
	entries, err := os.ReadDir(filepath.Join(g.dir, "release"))
	must(t, err)
	if len(entries) != 4 {
		t.Errorf("there are %v", entries)
	}
}

// Releases that were imported by a version that set no end get one.
func TestYesterdaysReleaseIsSigned(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)}
	g := signed(t, c)
	www := filepath.Join(g.dir, "release", "current", "www")
	path := filepath.Join(www, "apt", "dists", "stable", "Release")
	text, err := os.ReadFile(path)
	must(t, err)
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "Valid-Until: ") {
			lines = append(lines[:i], lines[i+1:]...)
			break
		}
	}
	must(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
	must(t, os.Remove(filepath.Join(www, "gateway.asc")))
	if until, err := g.store.Renew(c); err != nil || !until.Equal(c.now.Add(30*day)) {
		t.Errorf("renewed until %s, %v", until, err)
	}
	if _, until := g.term(); !until.Equal(c.now.Add(30 * day)) {
		t.Errorf("valid until %s", until)
	}
	g.body("/packages/gateway.asc")
}

// A renewal makes no other key: every device would refuse it.
func TestRenewalsNeedTheKey(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)}
	g := signed(t, c)
	must(t, os.Remove(filepath.Join(g.dir, "release", "signing-key.asc")))
	c.now = c.now.Add(20 * day)
	if _, err := g.store.Renew(c); err == nil {
		t.Error("it is signed by another key")
	}
	g.serves("1.0")
}

// Dates only go forward, whatever is imported, so that devices take the new index.
func TestDatesGoForward(t *testing.T) {
	t.Parallel()
	c := &clock{now: time.Date(2026, 7, 10, 0, 0, 0, 0, time.UTC)}
	g := signed(t, c)
	last, _ := g.term()
	for _, i := range [][2]string{{"1.1", "2026-07-02"}, {"1.0", "2026-06-01"}, {"1.0", "2026-06-01"}, {"1.1", "2026-07-02"}} {
		_, err := g.importAs(g.dated(i[0], i[1], ""), func(i *release.Import) { i.Now, i.Sane, i.AllowDowngrade = c.Now, c.Sane, true })
		must(t, err)
		date, until := g.term()
		if !date.After(last) || !until.Equal(c.now.Add(30*day)) {
			t.Errorf("%v: the date is %s after %s, valid until %s", i, date, last, until)
		}
		last = date
	}
}

// TestKeeper runs for months beside an import.
func TestKeeper(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	dir := g.dated("1.0", "1999-06-01", "")
	synctest.Test(t, func(t *testing.T) {
		c := &wallClock{}
		keeper := &release.Keeper{Store: g.store, Clock: c, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- keeper.Run(ctx) }()
		time.Sleep(time.Hour) // nothing is served
		_, err := g.importAs(dir, func(i *release.Import) { i.Now, i.Sane = c.Now, c.Sane })
		must(t, err)
		for range 10 {
			time.Sleep(7 * day)
			until, err := g.validUntil()
			must(t, err)
			if left := until.Sub(c.Now()); left < 19*day || left > 30*day {
				t.Errorf("at %s: valid until %s", c.Now(), until)
			}
		}
		cancel()
		must(t, <-ended)
	})
}

// wallClock is right.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }
func (wallClock) Sane() error    { return nil }

// validUntil reads the index without a look at its signature.
func (g *gateway) validUntil() (time.Time, error) {
	text := g.body("/packages/apt/dists/stable/Release")
	_, after, _ := strings.Cut(text, "Valid-Until: ")
	value, _, _ := strings.Cut(after, "\n")
	return time.Parse("Mon, 02 Jan 2006 15:04:05 UTC", value)
}
