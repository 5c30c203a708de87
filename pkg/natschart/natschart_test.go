package natschart_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/natschart"
	"fleet.nationtech.io/fleet/pkg/natskeys"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/golden"
)

// known are keys that never change, for golden files.
var known = natskeys.Public{
	Issuer:  "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA",
	XKey:    "XAB3NANV3M6N7AHSQP2U5FRWKKUT7EG2ZXXABV4XVXYQRJGM4S2CZGHT",
	Devices: "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
	Core:    "UAPE4V3T5K4FQH3FQN2HAV4ZBV6ZQB5KBHHD5NUG4VKTMOW6KQJ2KPMA",
	System:  "UCNGL4W5QX66CFX6A6DCBVDH5VOHMI7B2UZZU7TXAUQQSI2JPHULCKBR",
}

func options(preset, name string, keys natskeys.Public) natschart.Options {
	o := natschart.Options{Preset: preset, Name: name, FileStore: "1Gi", TLSSecret: "fleet-nats-tls", CASecret: "fleet-nats-ca", Keys: keys}
	switch preset {
	case natschart.Supercluster:
		o.Gateways = []natschart.Gateway{{Name: "west", URLs: []string{"tls://west:7222"}}}
	case natschart.Leaf:
		o.Remotes = []string{"tls://central:7422"}
	}
	return o
}

// values are those of options, as they are printed.
func values(t testing.TB, o natschart.Options) []byte {
	t.Helper()
	v, err := natschart.Values(o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestPresets shows the values of each preset, and nats.conf of the first server.
func TestPresets(t *testing.T) {
	t.Parallel()
	for _, preset := range natschart.Presets {
		name := map[string]string{natschart.Supercluster: "east", natschart.Leaf: "plant-1"}[preset]
		if name == "" {
			name = "fleet-nats"
		}
		v := values(t, options(preset, name, known))
		golden.Compare(t, preset, string(v)+"---\n"+text(t, parseChart(t, v).conf(0))+"\n")
	}
	o := options(natschart.Cluster, "bus", known)
	o.Replicas, o.FileStore, o.ServiceType, o.Image, o.Leaves = 5, "500Mi", "LoadBalancer", "registry.example.com/nats:2.15.2", []string{"plant-1.example.com"}
	o.Keys.XKey = ""
	v := values(t, o)
	golden.Compare(t, "everything", string(v))
	c := parseChart(t, v)
	if c.kindOf() != "LoadBalancer" || c.Container.Image.FullImageName != o.Image || c.NATSBox.Enabled || c.Config.Cluster.Replicas != 5 {
		t.Errorf("the chart makes %+v", c)
	}
}

func TestMistakesInOptions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*natschart.Options)
		says   string
	}{
		"no preset":        {func(o *natschart.Options) { o.Preset = "" }, `preset ""`},
		"one server":       {func(o *natschart.Options) { o.Replicas = 1 }, "replicas 1: preset cluster has at least 2 servers"},
		"many of one":      {func(o *natschart.Options) { o.Preset, o.Replicas = natschart.Basic, 3 }, "replicas 3: preset basic has one server"},
		"negative":         {func(o *natschart.Options) { o.Replicas = -1 }, "replicas -1"},
		"name":             {func(o *natschart.Options) { o.Name = "Fleet NATS" }, `name "Fleet NATS"`},
		"long name":        {func(o *natschart.Options) { o.Name = strings.Repeat("n", 51) }, "name "},
		"a size":           {func(o *natschart.Options) { o.FileStore = "10 GB" }, "file-store"},
		"a fraction":       {func(o *natschart.Options) { o.FileStore = "1.5Gi" }, "file-store"},
		"nothing":          {func(o *natschart.Options) { o.FileStore = "0" }, "file-store"},
		"a template":       {func(o *natschart.Options) { o.FileStore = "<< 1Gi >>" }, "file-store"},
		"secret":           {func(o *natschart.Options) { o.TLSSecret = "" }, "tls-secret"},
		"authority":        {func(o *natschart.Options) { o.CASecret = "../ca" }, "ca-secret"},
		"service":          {func(o *natschart.Options) { o.ServiceType = "Ingress" }, "service-type"},
		"image":            {func(o *natschart.Options) { o.Image = "nats {{ .Values }}" }, "image"},
		"needless gateway": {func(o *natschart.Options) { o.Gateways = []natschart.Gateway{{Name: "a", URLs: []string{"tls://a:1"}}} }, "gateway: only"},
		"no gateway":       {func(o *natschart.Options) { o.Preset = natschart.Supercluster }, "gateway: preset"},
		"gateway to itself": {func(o *natschart.Options) {
			o.Preset, o.Gateways = natschart.Supercluster, []natschart.Gateway{{Name: "bus", URLs: []string{"tls://a:1"}}}
		}, `gateway "bus"`},
		"gateway's name": {func(o *natschart.Options) {
			o.Preset, o.Gateways = natschart.Supercluster, []natschart.Gateway{{Name: "$X", URLs: []string{"tls://a:1"}}}
		}, "gateway"},
		"password": {func(o *natschart.Options) {
			o.Preset, o.Gateways = natschart.Supercluster, []natschart.Gateway{{Name: "a", URLs: []string{"tls://u:hunter2@a:1"}}}
		}, "gateway"},
		"needless remote": {func(o *natschart.Options) { o.Remotes = []string{"tls://a:1"} }, "remote: only"},
		"no remote":       {func(o *natschart.Options) { o.Preset = natschart.Leaf }, "remote: preset"},
		"remote":          {func(o *natschart.Options) { o.Preset, o.Remotes = natschart.Leaf, []string{"a:7422"} }, "remote"},
		"leaf of a leaf": {func(o *natschart.Options) {
			o.Preset, o.Remotes, o.Leaves = natschart.Leaf, []string{"tls://a:1"}, []string{"b"}
		}, "accept-leaf"},
		"leaf": {func(o *natschart.Options) { o.Leaves = []string{"CN=a"} }, "accept-leaf"},
	} {
		o := options(natschart.Cluster, "bus", known)
		tc.change(&o)
		_, err := natschart.Values(o)
		if err == nil || !strings.HasPrefix(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}

// secrets are a directory of keys, and the pairs in it.
type secrets struct {
	natskeys.Public
	pairs natskeys.Pairs
}

func newSecrets(t testing.TB) (s secrets) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	_, err := natskeys.Create(dir)
	if err == nil {
		s.Public, err = natskeys.ReadPublic(dir)
	}
	if err == nil {
		s.pairs, err = natskeys.ReadPairs(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// as connects an operator to a server, as one of its users.
func (s secrets) as(t testing.TB, at *site, n *server.Server, pair nkeys.KeyPair) *nats.Conn {
	t.Helper()
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := at.connect(n, "operator", nats.Nkey(public, pair.Sign))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// local is the URL of a server by the name in its certificate.
func local(n *server.Server) string {
	return strings.Replace(n.ClientURL(), "127.0.0.1", "localhost", 1)
}

// connect connects with the certificate of a name.
func (s *site) connect(n *server.Server, name string, options ...nats.Option) (*nats.Conn, error) {
	dir := filepath.Join(s.dir, name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		s.certificate(name)
	}
	return nats.Connect(local(n), append(options, nats.ClientCert(dir+"/tls.crt", dir+"/tls.key"), nats.RootCAs(filepath.Join(s.dir, "ca.crt")),
		nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.CustomInboxPrefix("_INBOX_"+name+".run"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...)
}

// answer answers who devices are, as an operator of the fleet does: those of a
// certificate may use their own subjects, but for one that is revoked.
func (s secrets) answer(t testing.TB, conn *nats.Conn) {
	t.Helper()
	_, err := conn.Subscribe("$SYS.REQ.USER.AUTH", func(m *nats.Msg) {
		serverKey := m.Header.Get("Nats-Server-Xkey")
		data, err := s.pairs.XKey.Open(m.Data, serverKey)
		if err != nil {
			t.Errorf("a request is not encrypted: %v", err)
			return
		}
		request, err := jwt.DecodeAuthorizationRequestClaims(string(data))
		if err != nil {
			t.Error(err)
			return
		}
		response := jwt.NewAuthorizationResponseClaims(request.UserNkey)
		response.Audience = request.Server.ID
		if response.Jwt, err = s.user(request); err != nil {
			response.Error = err.Error()
		}
		text, err := response.Encode(s.pairs.Issuer)
		if err != nil {
			t.Error(err)
			return
		}
		sealed, err := s.pairs.XKey.Seal([]byte(text), serverKey)
		if err == nil {
			err = m.Respond(sealed)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// user is the user that a device becomes.
func (s secrets) user(request *jwt.AuthorizationRequestClaims) (string, error) {
	if request.TLS == nil || len(request.TLS.VerifiedChains) == 0 {
		return "", errors.New("no certificate")
	}
	block, _ := pem.Decode([]byte(request.TLS.VerifiedChains[0][0]))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	device := cert.Subject.CommonName
	if device == "revoked" {
		return "", errors.New("revoked")
	}
	u := jwt.NewUserClaims(request.UserNkey)
	u.Name, u.Audience, u.Expires = device, bus.AccountDevices, cert.NotAfter.Unix()
	u.Pub.Allow.Add("fleet.v1.up." + device + ".*")
	u.Sub.Allow.Add("_INBOX_" + device + ".run.>")
	return u.Encode(s.pairs.Issuer)
}

// serves checks that a NATS has what a fleet needs: a device that connects to one server
// is answered at another, its own subjects are all it has, a revoked one is refused, and
// what is written at one is read at another.
func (s secrets) serves(t *testing.T, at *site, here, there *server.Server, replicas int) {
	t.Helper()
	s.answer(t, s.as(t, at, there, s.pairs.System))
	dev := s.as(t, at, there, s.pairs.Devices)
	if _, err := dev.Subscribe("fleet.v1.up.*.snapshot", func(m *nats.Msg) { _ = m.Respond([]byte(m.Subject)) }); err != nil {
		t.Fatal(err)
	}
	var device *nats.Conn
	eventually(t, "a device is let in", func() (err error) { device, err = at.connect(here, "press-7"); return err })
	defer device.Close()
	eventually(t, "an answer", func() error {
		m, err := device.Request("fleet.v1.up.press-7.snapshot", nil, time.Second)
		if err == nil && string(m.Data) != "fleet.v1.up.press-7.snapshot" {
			t.Fatalf("it is %s", m.Data)
		}
		return err
	})
	if _, err := device.Request("fleet.v1.up.press-8.snapshot", nil, 300*time.Millisecond); err == nil {
		t.Error("a device speaks as another")
	}
	if _, err := device.Request("$JS.API.INFO", nil, 300*time.Millisecond); err == nil {
		t.Error("a device reaches JetStream")
	}
	if c, err := at.connect(here, "revoked"); err == nil {
		c.Close()
		t.Error("a revoked device is let in")
	}
	if c, err := nats.Connect(local(here), nats.RootCAs(filepath.Join(at.dir, "ca.crt")), nats.TLSHandshakeFirst(), nats.NoReconnect()); err == nil {
		c.Close()
		t.Error("somebody without a certificate is let in")
	}
	s.stores(t, at, here, there, replicas)
}

// stores checks that buckets are where each server reaches them.
func (s secrets) stores(t *testing.T, at *site, here, there *server.Server, replicas int) {
	t.Helper()
	writes, err := jetstream.New(s.as(t, at, here, s.pairs.Core))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a bucket", func() error {
		kv, err := writes.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: wire.BucketDesiredState, Replicas: replicas})
		if err == nil {
			_, err = kv.Put(t.Context(), "press-7.default.web", []byte("score"))
		}
		return err
	})
	reads, err := jetstream.New(s.as(t, at, there, s.pairs.Core))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was written", func() error {
		kv, err := reads.KeyValue(t.Context(), wire.BucketDesiredState)
		if err != nil {
			return err
		}
		e, err := kv.Get(t.Context(), "press-7.default.web")
		if err == nil && string(e.Value()) != "score" {
			err = fmt.Errorf("it is %q", e.Value())
		}
		return err
	})
}

func TestBasicServes(t *testing.T) {
	t.Parallel()
	at, s := newSite(t), newSecrets(t)
	all := at.start(at.configurations(parseChart(t, values(t, options(natschart.Basic, "fleet-nats", s.Public))), at.servers("nats")))
	s.serves(t, at, all[0], all[0], 1)
}

// TestClusterServes: three servers, of which one goes away.
func TestClusterServes(t *testing.T) {
	t.Parallel()
	at, s := newSite(t), newSecrets(t)
	all := at.start(at.configurations(parseChart(t, values(t, options(natschart.Cluster, "fleet-nats", s.Public))), at.servers("nats")))
	if len(all) != 3 {
		t.Fatalf("%d servers", len(all))
	}
	s.serves(t, at, all[0], all[2], 3)
	all[1].Shutdown()
	all[1].WaitForShutdown()
	js, err := jetstream.New(s.as(t, at, all[0], s.pairs.Core))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write without one server", func() error {
		kv, err := js.KeyValue(t.Context(), wire.BucketDesiredState)
		if err == nil {
			_, err = kv.Put(t.Context(), "press-7.default.api", []byte("x"))
		}
		return err
	})
}

// TestSuperclusterServes: two clusters of two servers.
func TestSuperclusterServes(t *testing.T) {
	t.Parallel()
	at, s := newSite(t), newSecrets(t)
	certs := at.servers("nats")
	var texts []string
	for name, peer := range map[string]string{"east": "west", "west": "east"} {
		o := options(natschart.Supercluster, name, s.Public)
		o.Replicas, o.Gateways = 2, []natschart.Gateway{{Name: peer, URLs: []string{"tls://" + peer + ":7222"}}}
		texts = append(texts, at.configurations(parseChart(t, values(t, o)), certs)...)
	}
	all := at.start(texts)
	for _, n := range all {
		eventually(t, "the gateway", func() error {
			if n.NumOutboundGateways() != 1 {
				return fmt.Errorf("%s has %d gateways", n.Name(), n.NumOutboundGateways())
			}
			return nil
		})
	}
	if names := all[0].Name() + all[1].Name() + all[2].Name() + all[3].Name(); strings.Count(names, "east-") != 2 || strings.Count(names, "west-") != 2 {
		t.Errorf("the servers are %s", names)
	}
	s.serves(t, at, all[0], all[3], 2)
	// A device has a certificate of the authority, which makes no server of it.
	at.certificate("press-9")
	for port, as := range map[string]string{"east:7222": `"gateway":"west"`, "east-0.east-headless:6222": `"cluster":"east"`} {
		if answer := at.joins(port, as, "press-9"); !strings.Contains(answer, "Authorization Violation") {
			t.Errorf("a device joins at %s: %q", port, answer)
		}
		if answer := at.joins(port, as, "nats"); !strings.Contains(answer, "INFO") || strings.Contains(answer, "-ERR") {
			t.Errorf("the control: a server does not join at %s: %q", port, answer)
		}
	}
}

// joins says to a server at an address that another one is here, as what, with the
// certificate of a name, and returns what it answers within a moment.
func (s *site) joins(address, as, name string) string {
	s.t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port(address)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(s.dir, name, "tls.crt"), filepath.Join(s.dir, name, "tls.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca)
	over := tls.Client(conn, &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, ServerName: "localhost"})
	if _, err := io.WriteString(over, `CONNECT {"tls_required":true,"server":"X","name":"X",`+as+"}\r\nPING\r\n"); err != nil {
		s.t.Fatal(err)
	}
	answer, _ := io.ReadAll(over) // until the server ends it, or a moment is over
	return string(answer)
}

// TestCentralSeesALeaf: by its domain, and keeps its own buckets apart.
func TestCentralSeesALeaf(t *testing.T) {
	t.Parallel()
	at, site, central := newSite(t), newSecrets(t), newSecrets(t)
	o := options(natschart.Basic, "central", central.Public)
	o.Leaves = []string{"plant-1.example.com"}
	centre := at.start(at.configurations(parseChart(t, values(t, o)), at.servers("nats")))[0]
	leaf := at.start(at.configurations(parseChart(t, values(t, options(natschart.Leaf, "plant-1", site.Public))), at.servers("plant-1.example.com")))[0]
	stranger := at.start(at.configurations(parseChart(t, values(t, options(natschart.Leaf, "plant-2", site.Public))), at.servers("plant-2.example.com")))[0]
	eventually(t, "the leaf", func() error {
		if centre.NumLeafNodes() != 1 || leaf.NumLeafNodes() != 1 {
			return fmt.Errorf("%d leaves at the centre, %d at the leaf", centre.NumLeafNodes(), leaf.NumLeafNodes())
		}
		return nil
	})
	site.serves(t, at, leaf, leaf, 1)
	own, err := jetstream.New(central.as(t, at, centre, central.pairs.Core))
	if err != nil {
		t.Fatal(err)
	}
	kv, err := own.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: wire.BucketDesiredState})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), "press-7.default.web", []byte("the centre's")); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithDomain(central.as(t, at, centre, central.pairs.Core), "plant-1")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leaf's bucket at the centre", func() error {
		kv, err := js.KeyValue(t.Context(), wire.BucketDesiredState)
		if err != nil {
			return err
		}
		e, err := kv.Get(t.Context(), "press-7.default.web")
		if err == nil && string(e.Value()) != "score" {
			t.Fatalf("it is %q", e.Value())
		}
		return err
	})
	if n := stranger.NumLeafNodes(); n != 0 || centre.NumLeafNodes() != 1 {
		t.Errorf("a leaf that nobody named has %d connections", n)
	}
}

// TestAccountsAreForAnyNATS: what is printed for one that somebody else configures.
func TestAccountsAreForAnyNATS(t *testing.T) {
	t.Parallel()
	at, s := newSite(t), newSecrets(t)
	certs := at.servers("nats")
	accounts, err := json.MarshalIndent(natschart.Accounts(s.Public), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at.dir, "accounts.conf"), accounts, 0o600); err != nil {
		t.Fatal(err)
	}
	all := at.start([]string{fmt.Sprintf("host: 127.0.0.1\nport: %d\njetstream { store_dir: %q }\ntls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, handshake_first: true }\ninclude accounts.conf\n",
		at.port("any:4222"), filepath.Join(at.dir, "js"), certs+"/tls.crt", certs+"/tls.key", filepath.Join(at.dir, "ca.crt"))})
	s.serves(t, at, all[0], all[0], 1)
}
