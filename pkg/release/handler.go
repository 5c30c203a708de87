package release

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Paths that a Handler serves; the second has everything below it.
const (
	PathInstaller = "/install.sh"
	PathPackages  = "/packages/"
)

// Gateway is what the installer is told about the gateway that serves it.
type Gateway struct {
	// URL is https://HOST:PORT, as the client reached it.
	URL string
	// CAHash is the SHA-256 of the root's public key in hex, as in tokens.
	CAHash string
	// Pin is the serving key as curl's --pinnedpubkey takes it.
	Pin string
}

// Handler serves the release of a store. It needs no rights: everything that
// it serves is public.
type Handler struct {
	Store   *Store
	Gateway func(*http.Request) (Gateway, error)
	Logger  *slog.Logger
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	var err error
	if name, below := strings.CutPrefix(r.URL.Path, PathPackages); below {
		err = h.file(w, r, name)
	} else {
		err = h.installer(w, r)
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrNone):
		http.Error(w, "this gateway holds no release: its operator has to import one with fleet-server bundle import", http.StatusNotFound)
	case errors.Is(err, errNotServed), errors.Is(err, fs.ErrNotExist):
		http.NotFound(w, r)
	default:
		h.Logger.Error("serving the release", "path", r.URL.Path, "error", err)
		http.Error(w, "the gateway cannot serve this at the moment", http.StatusServiceUnavailable)
	}
}

// errNotServed: the path is not one of a file of the release.
var errNotServed = errors.New("not served")

// file serves a file below www. Paths that are not in their shortest form are
// not looked at, and os.Root keeps the rest inside.
func (h *Handler) file(w http.ResponseWriter, r *http.Request, name string) error {
	if !fs.ValidPath(name) || name == "." {
		return errNotServed
	}
	release, root, err := h.open()
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotServed, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errNotServed
	}
	header := w.Header()
	// The content of a path is the same for as long as the release is.
	header.Set("ETag", `"`+release+`"`)
	header.Set("Cache-Control", cacheControl(name))
	if kind := contentTypes[path.Ext(name)]; kind != "" {
		header.Set("Content-Type", kind)
	} else {
		header.Set("Content-Type", "application/octet-stream")
	}
	modified := info.ModTime()
	if !lasting(name) {
		// HTTP has whole seconds: apt would take an index for the one that it has, which
		// is of the same second.
		modified = time.Time{}
	}
	http.ServeContent(w, r, "", modified, f)
	return nil
}

// open opens what is served. It looks again when that was replaced meanwhile.
func (h *Handler) open() (release string, root *os.Root, err error) {
	for range 2 {
		if release, err = h.Store.current(); err != nil {
			return "", nil, err
		}
		root, err = os.OpenRoot(filepath.Join(h.Store.dir, release, wwwName))
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return release, root, err
}

// contentTypes are by the end of the name. Others are bytes.
var contentTypes = map[string]string{
	".deb": "application/vnd.debian.binary-package", ".rpm": "application/x-rpm", ".xml": "application/xml", ".gz": "application/gzip",
	".asc": "application/pgp-keys", ".txt": "text/plain; charset=utf-8", ".sh": "text/plain; charset=utf-8",
}

// lasting reports whether a file never changes, as packages do. Indexes have to be
// asked for again.
func lasting(name string) bool {
	return strings.HasSuffix(name, ".deb") || strings.HasSuffix(name, ".rpm")
}

func cacheControl(name string) string {
	if lasting(name) {
		return "public, max-age=86400"
	}
	return "no-cache"
}

// installer serves install.sh with the gateway filled in.
func (h *Handler) installer(w http.ResponseWriter, r *http.Request) error {
	release, err := h.Store.current()
	if err != nil {
		return err
	}
	script, err := readLimited(filepath.Join(h.Store.dir, release, installerName), maxSmall)
	if err != nil {
		return fmt.Errorf("the release has no installer: %w: %w", err, errNotServed)
	}
	gateway, err := h.Gateway(r)
	if err != nil {
		return err
	}
	script, err = fill(script, gateway)
	if err != nil {
		h.Logger.Error("the installer of the release cannot be served: import a release that fits this server", "error", err)
		return errNotServed
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(script))
	return nil
}

// placeholders are the lines of install.sh that a gateway fills in, and what
// may stand there: nothing that means anything to a shell within quotes.
var placeholders = []struct {
	name    string
	value   func(Gateway) string
	allowed *regexp.Regexp
}{
	{"GATEWAY_URL", func(g Gateway) string { return g.URL }, regexp.MustCompile(`^https://[A-Za-z0-9.:\[\]-]+$`)},
	{"GATEWAY_CA_HASH", func(g Gateway) string { return g.CAHash }, regexp.MustCompile(`^[0-9a-f]{64}$`)},
	{"GATEWAY_PUBKEY_PIN", func(g Gateway) string { return g.Pin }, regexp.MustCompile(`^sha256//[A-Za-z0-9+/]{43}=$`)},
}

// fill fills in the placeholders, each of which must be there once.
func fill(script []byte, g Gateway) ([]byte, error) {
	for _, p := range placeholders {
		value := p.value(g)
		if !p.allowed.MatchString(value) {
			return nil, fmt.Errorf("the value of %s has an unexpected form: %.200q", p.name, value)
		}
		empty := []byte("\n" + p.name + "=''\n")
		if n := bytes.Count(script, empty); n != 1 {
			return nil, fmt.Errorf("line %s='' is there %d times in install.sh, not once", p.name, n)
		}
		script = bytes.Replace(script, empty, []byte("\n"+p.name+"='"+value+"'\n"), 1)
	}
	return script, nil
}
