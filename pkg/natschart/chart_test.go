package natschart_test

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/test/wait"
)

// chart is what the official chart makes of values: those of its values that are set
// here, with its defaults. A value that it does not have is an error.
type chart struct {
	FullnameOverride string `json:"fullnameOverride"`
	TLSCA            struct {
		Enabled    bool   `json:"enabled"`
		SecretName string `json:"secretName"`
	} `json:"tlsCA"`
	Config struct {
		Cluster struct {
			listener
			Replicas int `json:"replicas"`
		} `json:"cluster"`
		JetStream struct {
			Enabled   bool `json:"enabled"`
			FileStore struct {
				PVC struct {
					Size string `json:"size"`
				} `json:"pvc"`
			} `json:"fileStore"`
			MemoryStore struct {
				Enabled bool   `json:"enabled"`
				MaxSize string `json:"maxSize"`
			} `json:"memoryStore"`
			Merge conf `json:"merge"`
		} `json:"jetstream"`
		NATS      listener `json:"nats"`
		Leafnodes listener `json:"leafnodes"`
		Gateway   listener `json:"gateway"`
		Merge     conf     `json:"merge"`
	} `json:"config"`
	Container struct {
		Image struct {
			FullImageName string `json:"fullImageName"`
		} `json:"image"`
	} `json:"container"`
	Service struct {
		Ports map[string]struct {
			Enabled bool `json:"enabled"`
		} `json:"ports"`
		Merge conf `json:"merge"`
	} `json:"service"`
	NATSBox struct {
		Enabled bool `json:"enabled"`
	} `json:"natsBox"`
}

// listener is a block of the chart that listens.
type listener struct {
	Enabled bool `json:"enabled"`
	TLS     struct {
		Enabled    bool   `json:"enabled"`
		SecretName string `json:"secretName"`
		Merge      conf   `json:"merge"`
	} `json:"tls"`
	Merge conf `json:"merge"`
}

type conf = map[string]any

// parseChart reads values as the chart does.
func parseChart(t testing.TB, text []byte) *chart {
	t.Helper()
	c := &chart{}
	if err := yaml.UnmarshalStrict(text, c); err != nil {
		t.Fatalf("the chart has no such value: %v", err)
	}
	return c
}

// conf is nats.conf of a server. Texts between << and >> lose their quotes.
func (c *chart) conf(server int) conf {
	out := conf{
		"server_name": fmt.Sprintf("%s-%d", c.FullnameOverride, server), "port": 4222, "http_port": 8222,
		"lame_duck_duration": "30s", "lame_duck_grace_period": "10s", "pid_file": "/var/run/nats/nats.pid",
	}
	c.addTLS(out, "nats", c.Config.NATS)
	if c.Config.Cluster.Enabled {
		var routes []any
		for i := range c.Config.Cluster.Replicas {
			routes = append(routes, fmt.Sprintf("tls://%s-%d.%s-headless:6222", c.FullnameOverride, i, c.FullnameOverride))
		}
		out["cluster"] = c.block("cluster", c.Config.Cluster.listener, conf{"name": c.FullnameOverride, "port": 6222, "no_advertise": true, "routes": routes})
	}
	if c.Config.Gateway.Enabled {
		out["gateway"] = c.block("gateway", c.Config.Gateway, conf{"name": c.FullnameOverride, "port": 7222})
	}
	if c.Config.Leafnodes.Enabled {
		out["leafnodes"] = c.block("leafnodes", c.Config.Leafnodes, conf{"port": 7422, "no_advertise": true})
	}
	if js := c.Config.JetStream; js.Enabled {
		block := conf{"store_dir": "/data", "max_file_store": "<< " + js.FileStore.PVC.Size + " >>", "max_memory_store": 0}
		if js.MemoryStore.Enabled {
			block["max_memory_store"] = "<< " + js.MemoryStore.MaxSize + " >>"
		}
		out["jetstream"] = merge(block, js.Merge)
	}
	return merge(out, c.Config.Merge)
}

func (c *chart) block(name string, l listener, block conf) conf {
	c.addTLS(block, name, l)
	return merge(block, l.Merge)
}

// addTLS adds the certificate that is mounted for a block.
func (c *chart) addTLS(block conf, name string, l listener) {
	if !l.TLS.Enabled {
		return
	}
	dir := "/etc/nats-certs/" + name
	tls := conf{"cert_file": dir + "/tls.crt", "key_file": dir + "/tls.key"}
	if c.TLSCA.Enabled {
		tls["ca_file"] = "/etc/nats-ca-cert/ca.crt"
	}
	block["tls"] = merge(tls, l.TLS.Merge)
}

// merge puts one map over another, as far down as both have maps.
func merge(into, over conf) conf {
	out := maps.Clone(into)
	for key, value := range over {
		below, ok := value.(conf)
		if was, both := out[key].(conf); ok && both {
			value = merge(was, below)
		}
		out[key] = value
	}
	return out
}

var unquoted = regexp.MustCompile(`"<< ([^"]*) >>"`)

// text is nats.conf as the chart writes it: keys in order, texts unquoted that want it.
func text(t testing.TB, c conf) string {
	t.Helper()
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return unquoted.ReplaceAllString(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(data)), "$1")
}

// site is a machine on which pods run: all names lead to it, each with a port of its own.
type site struct {
	t     testing.TB
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	dir   string
	ports map[string]int // by the address in configurations, HOST:PORT

	started int // servers
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), ports: map[string]int{}}
	s.key = s.newKey()
	s.ca = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := s.sign(s.ca, s.key)
	s.write("ca.crt", "CERTIFICATE", der)
	var err error
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) newKey() *ecdsa.PrivateKey {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

func (s *site) sign(cert *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	s.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, s.ca, &key.PublicKey, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	return der
}

func (s *site) write(name, kind string, der []byte) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// servers makes a certificate for servers here, and returns its directory.
func (s *site) servers(name string) string {
	s.t.Helper()
	return s.certificate(name, name, "localhost")
}

// certificate makes NAME/tls.crt and NAME/tls.key, and returns the directory.
func (s *site) certificate(name string, hosts ...string) string {
	s.t.Helper()
	key := s.newKey()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(name+"/tls.key", "EC PRIVATE KEY", der)
	s.write(name+"/tls.crt", "CERTIFICATE", s.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    hosts,
	}, key))
	return filepath.Join(s.dir, name)
}

// port is the port that an address of a configuration has here.
func (s *site) port(address string) int {
	s.t.Helper()
	if s.ports[address] == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		s.ports[address] = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.ports[address]
}

// configurations are those of the servers of a chart, with the ports and directories of
// the site. The Service of a gateway and of a listener for leaves leads to the first.
func (s *site) configurations(c *chart, certs string) []string {
	s.t.Helper()
	var texts []string
	n := max(c.Config.Cluster.Replicas, 1)
	for i := range n {
		pod := fmt.Sprintf("%s-%d", c.FullnameOverride, i)
		cf := c.conf(i)
		cf["host"], cf["port"], cf["http_port"] = "127.0.0.1", s.port(pod+":4222"), -1
		for block, at := range map[string]string{"cluster": pod + "." + c.FullnameOverride + "-headless:6222", "gateway": pod + ":7222", "leafnodes": pod + ":7422"} {
			if b, ok := cf[block].(conf); ok {
				if i == 0 && block != "cluster" {
					at = c.FullnameOverride + strings.TrimPrefix(at, pod)
				}
				b["host"], b["port"] = "127.0.0.1", s.port(at)
			}
		}
		texts = append(texts, text(s.t, cf))
	}
	for i := range texts {
		replace := []string{"/data", filepath.Join(s.dir, fmt.Sprintf("data-%s-%d", c.FullnameOverride, i)), "/var/run/nats", s.dir, "/etc/nats-ca-cert", s.dir}
		for _, block := range []string{"nats", "cluster", "gateway", "leafnodes"} {
			replace = append(replace, "/etc/nats-certs/"+block, certs)
		}
		texts[i] = strings.NewReplacer(replace...).Replace(texts[i])
	}
	return texts
}

// lead replaces names in configurations by the addresses that they lead to.
func (s *site) lead(texts []string) []string {
	var replace []string
	for address, port := range s.ports {
		replace = append(replace, "//"+address, fmt.Sprintf("//localhost:%d", port))
	}
	r := strings.NewReplacer(replace...)
	for i := range texts {
		texts[i] = r.Replace(texts[i])
	}
	return texts
}

// start starts a server for each configuration.
func (s *site) start(texts []string) []*server.Server {
	s.t.Helper()
	var all []*server.Server
	for i, text := range s.lead(texts) {
		path := filepath.Join(s.dir, fmt.Sprintf("nats-%d.conf", s.started)) // beside what it includes
		s.started++
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
		o, err := server.ProcessConfigFile(path)
		if err != nil {
			s.t.Fatalf("server %d: %v\n%s", i, err, text)
		}
		o.NoLog, o.NoSigs = true, true
		n, err := server.NewServer(o)
		if err != nil {
			s.t.Fatalf("server %d: %v\n%s", i, err, text)
		}
		go n.Start()
		s.t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
		all = append(all, n)
	}
	for i, n := range all {
		if !n.ReadyForConnections(time.Minute) {
			s.t.Fatalf("server %d is not ready", i)
		}
	}
	return all
}

// eventually waits until check returns nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	wait.For(t, what, 90*time.Second, 20*time.Millisecond, check)
}

// kindOf is the type of the Service.
func (c *chart) kindOf() string {
	spec, _ := c.Service.Merge["spec"].(conf)
	kind, _ := spec["type"].(string)
	return cmp.Or(kind, "ClusterIP")
}
