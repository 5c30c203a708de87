package embedserver

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"fleet.nationtech.io/fleet/pkg/deviceapi/download"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/registry"
	"fleet.nationtech.io/fleet/pkg/registry/cache"
	"fleet.nationtech.io/fleet/pkg/release"
)

// Places for downloads, together and for each host. Anybody may ask for
// packages, so that images, which are for devices, have places of their own.
// podman fetches six layers of an image at once.
const (
	maxPackages, maxPackagesOfHost = 32, 8
	maxImages, maxImagesOfHost     = 32, 8
)

// withDownloads adds the paths of packages and images to those of enrollment.
func (s *server) withDownloads(enrollment *enroll.Handler) http.Handler {
	packages := download.NewGate("packages", maxPackages, maxPackagesOfHost)
	pulls := download.NewGate("images", maxImages, maxImagesOfHost)
	s.metrics.MustRegister(append(packages.Collectors(), pulls.Collectors()...)...)
	files := packages.Handler(&release.Handler{
		Store: s.release, Logger: s.component("release"),
		Gateway: func(r *http.Request) (release.Gateway, error) {
			return s.gateway(enrollment.HostFor(r), portOf(r.Host))
		},
	})
	mux := http.NewServeMux()
	mux.Handle("/", enrollment)
	mux.Handle(release.PathInstaller, files)
	mux.Handle(release.PathPackages, files)
	mux.Handle(registry.Path, registry.NewHandler(registry.Site{
		Store: registry.Open(s.DataDir), Cache: s.cache, Credentials: s.images, Rights: imageRights{s}, Names: images{s}.Names,
	}, pulls.Handler))
	return mux
}

// ImageCache says which images of other registries a server keeps.
type ImageCache struct {
	// Upstreams are the registries, as cache.Check takes them; none for no cache.
	Upstreams []string
	// AuthFile has the logins, as podman login writes them.
	AuthFile string
	// Size bounds what is kept, in bytes.
	Size int64
}

func (s *server) openCache() (err error) {
	s.cache, err = cache.New(cache.Config{
		Dir: s.path("image-cache"), Upstreams: s.Images.Upstreams, AuthFile: s.Images.AuthFile, Size: s.Images.Size,
		Now: s.clock.Now, Panics: s.panics, Log: s.component("image-cache"),
	})
	s.parts.OnStop("image cache", s.cache.Close)
	return err
}

// imageRights are those of devices to images.
type imageRights struct{ *server }

// Images implements registry.Rights.
func (r imageRights) Images(device string) ([]string, bool) { return r.plane.ImagesOf(device) }

// gateway says how devices reach this server by a name. Without a port it is
// the one that the server listens on.
func (s *server) gateway(host, port string) (release.Gateway, error) {
	if port == "" {
		port = s.enrollPort()
	}
	public, err := x509.MarshalPKIXPublicKey(s.serving.Certificate().Leaf.PublicKey)
	if err != nil {
		return release.Gateway{}, fmt.Errorf("encoding the serving key: %w", err)
	}
	pin := sha256.Sum256(public)
	root := sha256.Sum256(s.pki.Root.Cert().RawSubjectPublicKeyInfo)
	return release.Gateway{
		URL: "https://" + net.JoinHostPort(host, port), CAHash: hex.EncodeToString(root[:]),
		Pin: "sha256//" + base64.StdEncoding.EncodeToString(pin[:]),
	}, nil
}

// portOf is the port in the Host of a request, by which a client came that
// something forwards from another port; empty when it is none.
func portOf(host string) string {
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return ""
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return ""
	}
	return port
}

func (s *server) enrollPort() string {
	_, port, err := net.SplitHostPort(s.enrollListener.Addr().String())
	if err != nil {
		return "443" // not reached: a listener's address has a port
	}
	return port
}

// images is the registry as the device API knows it.
type images struct{ *server }

// Issue implements deviceapi.Registry.
func (i images) Issue(device string) (string, bool) { return i.images.Issue(device) }

// Names implements deviceapi.Registry.
func (i images) Names() []string {
	var names []string
	for _, host := range i.hosts() {
		names = append(names, net.JoinHostPort(host, i.enrollPort()))
	}
	return names
}

// Upstreams implements deviceapi.Registry.
func (i images) Upstreams() []string { return i.cache.Upstreams() }
