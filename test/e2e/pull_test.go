//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"fleet.nationtech.io/fleet/test/lab"
)

const (
	// farHost is what the certificate of httptest is for.
	farHost     = "example.com:5000"
	farUser     = "device"
	farPassword = "opensesame-registry"
	// largeLayer is the size of a layer that takes a while.
	largeLayer = 24 << 20
)

// TestPulls has a real podman pull from a private registry by way of the agent.
func TestPulls(t *testing.T) {
	t.Parallel()
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Name: "pulls-" + suite, Suite: suite})
			far := s.startFar()
			for _, step := range []struct {
				name string
				run  func(*site, *farRegistry)
			}{
				{"a login is wanted", (*site).loginIsWanted},
				{"by tag and by digest", (*site).pullsByTagAndDigest},
				{"a volume after a pull", (*site).volumeAfterAPull},
				{"a pull goes on where it was", (*site).pullGoesOn},
				{"a moving tag", (*site).movingTag},
				{"images that must be signed", (*site).policyOfImages},
				{"images that must be signed with GPG", (*site).policyOfGPG},
			} {
				if !t.Run(step.name, func(t *testing.T) {
					whole := s.t
					s.t = t
					defer func() { s.t = whole }()
					step.run(s, far)
				}) {
					return
				}
			}
		})
	}
}

// farRegistry is a registry far away, which counts what it sends of layers.
type farRegistry struct {
	store  http.Handler
	server *httptest.Server
	image  v1.Image // that of the device, which runs

	mu     sync.Mutex // guards what follows
	sent   int64
	agents map[string]bool
	// pause holds answers with a large layer after so many bytes, until resume is closed.
	pause  int64
	resume chan struct{}
}

func (s *site) startFar() *farRegistry {
	s.t.Helper()
	ctx := s.t.Context()
	member, err := s.network.Join(ctx)
	s.must(err)
	s.t.Cleanup(member.Close)
	listener, err := member.Listen(ctx, "tcp", netJoin(member, 5000))
	s.must(err)
	f := &farRegistry{store: registry.New(registry.Logger(log.New(io.Discard, "", 0))), agents: map[string]bool{}}
	f.server = httptest.NewUnstartedServer(f)
	_ = f.server.Listener.Close()
	f.server.Listener = listener
	f.server.StartTLS()
	s.t.Cleanup(f.server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	s.must(s.machine.WriteFile(ctx, "/etc/containers/certs.d/"+farHost+"/ca.crt", strings.NewReader(string(ca)), 0o644))
	s.root(fmt.Sprintf("echo '%s example.com' >>/etc/hosts", member.Addr))
	archive, err := s.machine.Image(ctx, "localhost/far:1")
	s.must(err)
	f.image, err = tarball.ImageFromPath(archive, nil)
	s.must(err)
	return f
}

// has gives the registry an image with a layer of a size, and returns its digest.
func (f *farRegistry) has(s *site, called string, size int64) string {
	s.t.Helper()
	layer, err := random.Layer(size, types.DockerLayer)
	s.must(err)
	image, err := mutate.AppendLayers(f.image, layer)
	s.must(err)
	f.push(s, called, image)
	digest, err := image.Digest()
	s.must(err)
	return digest.String()
}

func (f *farRegistry) push(s *site, called string, image v1.Image) {
	s.t.Helper()
	web := httptest.NewServer(f.store)
	defer web.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(web.URL, "http://") + "/" + called)
	s.must(err)
	s.must(remote.Write(ref, image, remote.WithAuth(authn.Anonymous), remote.WithContext(s.t.Context())))
}

func (f *farRegistry) counted() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}

func (f *farRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); user != farUser || password != farPassword {
		w.Header().Set("WWW-Authenticate", `Basic realm="far"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		f.store.ServeHTTP(w, r)
		return
	}
	inner := r.Clone(r.Context())
	inner.Header.Del("Range")
	recorded := httptest.NewRecorder()
	f.store.ServeHTTP(recorded, inner)
	if recorded.Code != http.StatusOK {
		w.WriteHeader(recorded.Code)
		return
	}
	f.mu.Lock()
	f.agents[r.UserAgent()] = true
	f.mu.Unlock()
	http.ServeContent(&farWriter{ResponseWriter: w, far: f, ctx: r.Context()}, r, "", time.Time{}, bytes.NewReader(recorded.Body.Bytes()))
}

type farWriter struct {
	http.ResponseWriter

	far  *farRegistry
	ctx  context.Context //nolint:containedctx // of the request
	sent int64
}

// Write implements io.Writer.
func (w *farWriter) Write(p []byte) (int, error) {
	w.far.mu.Lock()
	pause, resume := w.far.pause, w.far.resume
	w.far.mu.Unlock()
	if resume != nil && w.sent >= pause {
		select {
		case <-resume:
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		}
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	w.far.mu.Lock()
	w.far.sent += int64(n)
	w.far.mu.Unlock()
	return n, err
}

func (s *site) loginIsWanted(f *farRegistry) {
	f.has(s, "team/app:1", 1000)
	s.apply("private", "{name: web, image: '"+farHost+"/team/app:1'}")
	s.failsWith("default", "private", regexp.MustCompile(`service web: pulling image "`+farHost+`/team/app:1": .*refuses team/app \(status 401\): check the login`))
	auth := base64.StdEncoding.EncodeToString([]byte(farUser + ":" + farPassword))
	s.kubectl("create", "secret", "generic", "far", "--type=kubernetes.io/dockerconfigjson",
		"--from-literal=.dockerconfigjson="+fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, farHost, auth))
	s.applyPrivate("private", "{name: web, image: '"+farHost+"/team/app:1'}")
	s.aggregate("private", counts{1, 1, 0, 0})
	f.mu.Lock()
	defer f.mu.Unlock()
	for agent := range f.agents {
		if strings.HasPrefix(agent, "containers/") || strings.HasPrefix(agent, "libpod/") {
			s.t.Errorf("podman itself fetched a layer: %s", agent)
		}
	}
	if len(f.agents) == 0 {
		s.t.Error("nobody fetched a layer")
	}
}

// applyPrivate applies a Deployment whose images need the login of the registry.
func (s *site) applyPrivate(called, service string) {
	s.t.Helper()
	s.must(s.tryApply("default", called, service+"], imagePullSecrets: [{name: far}"))
}

func (s *site) pullsByTagAndDigest(f *farRegistry) {
	digest := f.has(s, "team/other:1", 1000)
	s.applyPrivate("private", "{name: web, image: '"+farHost+"/team/other:1'}")
	s.aggregate("private", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "private")
	s.containers()
	s.podman("image", "rm", farHost+"/team/other:1")
	s.applyPrivate("digest", "{name: web, image: '"+farHost+"/team/other@"+digest+"'}")
	s.aggregate("digest", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "digest")
	s.containers()
}

// volumeAfterAPull: podman was told of the mirror, and still knows where its volumes are.
func (s *site) volumeAfterAPull(f *farRegistry) {
	f.has(s, "team/data:1", 1000)
	s.applyPrivate("data", "{name: web, image: '"+farHost+"/team/data:1', volumes: [{name: data, mountPath: /data}]}")
	s.aggregate("data", counts{1, 1, 0, 0})
	if at := s.podman("volume", "inspect", "--format", "{{.Mountpoint}}", "default_data_data"); !strings.HasPrefix(at, "/var/lib/fleet-workload/") {
		s.t.Errorf("the volume is in %q", at)
	}
	s.kubectl("delete", "fleetdep", "data")
	s.containers()
}

// pullGoesOn: what a pull brought before the agent was restarted is not fetched again; podman
// alone, the control, fetches it again.
func (s *site) pullGoesOn(f *farRegistry) {
	const before = 8 << 20
	interrupted := func(tag string) (sent int64) {
		f.has(s, "team/large:"+tag, largeLayer)
		resume := make(chan struct{})
		begun := f.counted()
		f.mu.Lock()
		f.pause, f.resume = before, resume
		f.mu.Unlock()
		s.applyPrivate("large", "{name: web, image: '"+farHost+"/team/large:"+tag+"'}")
		s.eventually("the first part", func() error {
			if got := f.counted() - begun; got < before {
				return fmt.Errorf("%d bytes were sent", got)
			}
			return nil
		})
		if tag == "mirror" {
			s.eventually("progress", func() error {
				out, err := s.machine.Output(s.t.Context(), "fleet-agent", "status")
				if err == nil && !regexp.MustCompile(`team/large:mirror .* [1-9][0-9]? of 2[0-9] MB`).MatchString(out) {
					err = fmt.Errorf("status says:\n%s", out)
				}
				return err
			})
			s.eventually("progress in the status of the Deployment", func() error {
				d, err := s.get("default", "large")
				if err != nil {
					return err
				}
				a := d.Status.Aggregate
				if a == nil || a.Progress == nil || !regexp.MustCompile(`^pulling web: [1-9][0-9]? of 2[0-9] MB$`).MatchString(a.Progress.Message) {
					return fmt.Errorf("the status is %+v", a)
				}
				return nil
			})
		}
		s.root("systemctl kill --signal=KILL fleet-agent")
		close(resume)
		f.mu.Lock()
		f.resume = nil
		f.mu.Unlock()
		s.aggregate("large", counts{1, 1, 0, 0})
		s.kubectl("delete", "fleetdep", "large")
		s.containers()
		return f.counted() - begun
	}
	if sent := interrupted("mirror"); sent > largeLayer+(4<<20) {
		s.t.Errorf("the registry sent %d bytes of an image of %d", sent, largeLayer)
	}
	s.root("cp -p /etc/fleet-agent/agent.yaml /root/agent.yaml; printf 'images:\n  direct: true\n' >>/etc/fleet-agent/agent.yaml; systemctl restart fleet-agent")
	s.connected()
	if sent := interrupted("direct"); sent < largeLayer+before/2 {
		s.t.Errorf("the control: podman alone had %d bytes sent of an image of %d", sent, largeLayer)
	}
	s.root("mv /root/agent.yaml /etc/fleet-agent/agent.yaml; systemctl restart fleet-agent")
	s.connected()
}

// movingTag: a tag that was given to another image is followed when its Deployment changes.
func (s *site) movingTag(f *farRegistry) {
	f.has(s, "team/moving:1", 1000)
	service := func(env string) string {
		return "{name: web, image: '" + farHost + "/team/moving:1', pullPolicy: Always, env: [{name: A, value: '" + env + "'}]}"
	}
	s.applyPrivate("moving", service("1"))
	s.aggregate("moving", counts{1, 1, 0, 0})
	image := func() string { return s.podman("inspect", "--format", "{{.Image}}", "default_moving_web") }
	first := image()
	f.has(s, "team/moving:1", 2000)
	s.applyPrivate("moving", service("2"))
	s.aggregate("moving", counts{1, 1, 0, 0})
	s.eventually("the newer image", func() error {
		if image() == first {
			return fmt.Errorf("it runs %s", first)
		}
		return nil
	})
	s.kubectl("delete", "fleetdep", "moving")
	s.containers()
}

// policyOfImages: what the policy says of images counts, by their own names, though they come by
// way of the agent. It is that of examples/files-v0, which the server distributes, with a key of
// its own.
func (s *site) policyOfImages(f *farRegistry) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	s.must(err)
	example, err := os.ReadFile("../../examples/files-v0/signatures.yaml")
	s.must(err)
	manifest := regexp.MustCompile(`(?s)-----BEGIN.*END PUBLIC KEY-----\n`).ReplaceAllString(string(example),
		strings.ReplaceAll(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))), "\n", "\n    ")+"\n")
	manifest = strings.NewReplacer("registry.example.com", farHost+"/team", "{example: signatures}", "{site: a}").Replace(manifest)
	s.root("mkdir -p /etc/containers/fleet; echo 'fileRoots: [/etc/containers/fleet]' >>/etc/fleet-agent/agent.yaml; systemctl restart fleet-agent")
	s.kubectl("label", "namespace", "default", "--overwrite", "fleet.nationtech.io/privilege=privileged")
	_, err = s.server.Apply(s.t.Context(), manifest)
	s.must(err)
	s.aggregate("signatures", counts{1, 1, 0, 0})

	f.has(s, "team/unsigned:1", 1000)
	s.applyPrivate("unsigned", "{name: web, image: '"+farHost+"/team/unsigned:1'}")
	s.failsWith("default", "unsigned", regexp.MustCompile(`A signature was required, but no signature exists`))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	f.sign(s, "team/foreign", f.has(s, "team/foreign:1", 1000), other)
	s.applyPrivate("foreign", "{name: web, image: '"+farHost+"/team/foreign:1'}")
	s.failsWith("default", "foreign", regexp.MustCompile(`pulling image .*foreign:1.*`))
	f.sign(s, "team/signed", f.has(s, "team/signed:1", 1000), key)
	s.applyPrivate("signed", "{name: web, image: '"+farHost+"/team/signed:1'}")
	if strings.Contains(s.podman("--version"), " 4.") { // Debian 12 has switched sigstore off
		s.failsWith("default", "signed", regexp.MustCompile(`sigstore disabled`))
	} else {
		s.aggregate("signed", counts{1, 1, 0, 0})
	}
	s.kubectl("delete", "fleetdep", "unsigned", "foreign", "signed", "signatures")
	s.containers()
	// With the policy gone, the control, the same image needs no signature.
	s.applyPrivate("unsigned", "{name: web, image: '"+farHost+"/team/unsigned:1'}")
	s.aggregate("unsigned", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "unsigned")
}

// policyOfGPG: signatures of GPG work on every suite, from a directory of the device, in which the
// server puts them.
func (s *site) policyOfGPG(f *farRegistry) {
	key, err := openpgp.NewEntity("Maker", "", "maker@example.com", nil)
	s.must(err)
	other, err := openpgp.NewEntity("Other", "", "other@example.com", nil)
	s.must(err)
	var public bytes.Buffer
	armored, err := armor.Encode(&public, openpgp.PublicKeyType, nil)
	s.must(err)
	s.must(key.Serialize(armored))
	s.must(armored.Close())
	put := func(path string, content []byte) {
		s.t.Helper()
		s.must(s.machine.WriteFile(s.t.Context(), "/etc/containers/fleet/"+path, bytes.NewReader(content), 0o644))
	}
	sign := func(by *openpgp.Entity, repository string) (path string, signature []byte) {
		s.t.Helper()
		digest := f.has(s, repository+":1", 1000)
		return "signatures/example.com__5000/" + repository + "@" + strings.Replace(digest, ":", "=", 1) + "/signature-1", s.signature(by, repository+":1", digest)
	}
	put("maker.asc", public.Bytes())
	put("registries.d/default.yaml", []byte("default-docker: {lookaside: 'file:///etc/containers/fleet/signatures'}\n"))
	put("policy.json", fmt.Appendf(nil, `{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {%q: [
  {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/containers/fleet/maker.asc", "signedIdentity": {"type": "matchRepository"}}]}}}`, farHost+"/gpg"))

	f.has(s, "gpg/unsigned:1", 1000)
	s.applyPrivate("unsigned", "{name: web, image: '"+farHost+"/gpg/unsigned:1'}")
	s.failsWith("default", "unsigned", regexp.MustCompile(`A signature was required, but no signature exists`))
	put(sign(other, "gpg/foreign"))
	s.applyPrivate("foreign", "{name: web, image: '"+farHost+"/gpg/foreign:1'}")
	s.failsWith("default", "foreign", regexp.MustCompile(`pulling image .*foreign:1.*[Ss]ignature`))
	path, signature := sign(key, "gpg/signed")
	s.distribute("/etc/containers/fleet/"+path, signature)
	s.applyPrivate("signed", "{name: web, image: '"+farHost+"/gpg/signed:1'}")
	s.aggregate("signed", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "unsigned", "foreign", "signed", "distributed")
	s.containers()
	s.root("rm -r /etc/containers/fleet/*")
}

// distribute puts a file on the device by way of the server.
func (s *site) distribute(path string, content []byte) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "content")
	s.must(os.WriteFile(file, content, 0o600))
	s.kubectl("create", "configmap", "distributed", "--from-file=content="+file)
	_, err := s.server.Apply(s.t.Context(), fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: distributed},
  spec: {targetSelector: {matchLabels: {site: a}}, score: {type: FilesV0, data: {files: [{path: %q, configMapKeyRef: {name: distributed, key: content}}]}}}}`, path))
	s.must(err)
	s.aggregate("distributed", counts{1, 1, 0, 0})
}

// signature is what `podman push --sign-by` writes about an image.
func (s *site) signature(by *openpgp.Entity, called, digest string) []byte {
	s.t.Helper()
	var signed bytes.Buffer
	w, err := openpgp.Sign(&signed, by, nil, nil)
	s.must(err)
	_, err = fmt.Fprintf(w, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"atomic container signature"},"optional":{}}`,
		farHost+"/"+called, digest)
	s.must(err)
	s.must(w.Close())
	return signed.Bytes()
}

// sign puts a signature of an image beside it, as cosign does.
func (f *farRegistry) sign(s *site, repository, digest string, key *ecdsa.PrivateKey) {
	s.t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":{}}`,
		farHost+"/"+repository, digest)
	sum := sha256.Sum256(payload)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	s.must(err)
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature)},
	})
	s.must(err)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	f.push(s, repository+":"+strings.Replace(digest, ":", "-", 1)+".sig", image)
}
