package natschart

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/natskeys"
)

// Presets.
const (
	// Basic is one server.
	Basic = "basic"
	// Cluster is several servers at one place, of which one may fail.
	Cluster = "cluster"
	// Supercluster is a cluster that gateways connect with those of other places.
	Supercluster = "supercluster"
	// Leaf is one server that connects to another NATS as its leaf.
	Leaf = "leaf"
)

// Presets are all of them.
var Presets = []string{Basic, Cluster, Supercluster, Leaf}

// Options are what values depend on.
type Options struct {
	Preset string
	// Name is that of everything that the chart makes, of the cluster, and of the JetStream
	// domain of a leaf.
	Name string
	// Replicas is the number of servers; 0 for that of the preset.
	Replicas int
	// FileStore is the size of each server's volume, such as 10Gi.
	FileStore string
	// TLSSecret is the Secret with tls.crt and tls.key, CASecret the one with ca.crt, whose
	// authority signed those of devices and of all servers.
	TLSSecret, CASecret string
	// ServiceType is the type of the Service; empty for the chart's own.
	ServiceType string
	// Image is the image of nats-server; empty for the chart's own.
	Image string
	// Gateways are the other clusters of a supercluster.
	Gateways []Gateway
	// Remotes are the URLs of the NATS that a leaf connects to.
	Remotes []string
	// Leaves are the names in the certificates of leaves that may connect.
	Leaves []string
	Keys   natskeys.Public
}

// Gateway is another cluster.
type Gateway struct {
	Name string
	URLs []string
}

// values is a map of a document.
type values = map[string]any

// where the chart mounts certificates: those of the listener for clients, and the authority's.
const (
	clientCerts = "/etc/nats-certs/nats/"
	authority   = "/etc/nats-ca-cert/ca.crt"
)

// Values returns the values, or the first mistake in the options, which begins with the
// name of the flag that sets it.
func Values(o Options) (map[string]any, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	config := values{
		"nats":      values{"tls": o.tls(values{"handshake_first": true, "timeout": int(bus.AuthTimeout.Seconds())})},
		"jetstream": o.jetStream(),
		"merge":     o.merge(),
	}
	v := values{
		"fullnameOverride": o.Name,
		"tlsCA":            values{"enabled": true, "secretName": o.CASecret},
		"config":           config,
		"natsBox":          values{"enabled": false}, // it would need a key and a certificate of its own
	}
	if n := o.replicas(); n > 1 {
		config["cluster"] = values{"enabled": true, "replicas": n, "tls": o.tls(known)}
	}
	ports := values{}
	if o.Preset == Supercluster {
		config["gateway"] = values{"enabled": true, "tls": o.tls(known), "merge": values{"gateways": o.gateways()}}
		ports["gateway"] = values{"enabled": true}
	}
	if leafnodes := o.leafnodes(); leafnodes != nil {
		config["leafnodes"] = leafnodes
	}
	if o.Image != "" {
		v["container"] = values{"image": values{"fullImageName": o.Image}}
	}
	service := values{}
	if len(ports) > 0 {
		service["ports"] = ports
	}
	if o.ServiceType != "" {
		service["merge"] = values{"spec": values{"type": o.ServiceType}}
	}
	if len(service) > 0 {
		v["service"] = service
	}
	return v, nil
}

func (o Options) replicas() int {
	switch {
	case o.Replicas > 0:
		return o.Replicas
	case o.Preset == Cluster || o.Preset == Supercluster:
		return 3
	}
	return 1
}

// known has a listener take servers only whose certificate names one of the hosts that the
// configuration names: devices have certificates of the authority, too.
var known = values{"verify_cert_and_check_known_urls": true}

// tls is the TLS of a listener: whoever connects shows a certificate of the authority.
func (o Options) tls(more values) values {
	merge := values{"verify": true}
	maps.Copy(merge, more)
	return values{"enabled": true, "secretName": o.TLSSecret, "merge": merge}
}

// jetStream has the buckets. That of a leaf has a domain of its own, by which the other
// NATS reaches it, and which keeps its buckets apart.
func (o Options) jetStream() values {
	js := values{
		"enabled": true, "fileStore": values{"pvc": values{"size": o.FileStore}},
		"memoryStore": values{"enabled": true, "maxSize": fmt.Sprintf("%dMi", bus.MaxMemoryStore>>20)},
	}
	if o.Preset == Leaf {
		js["merge"] = values{"domain": o.Name}
	}
	return js
}

// merge is what the chart has no values for.
func (o Options) merge() values {
	m := values{
		"max_payload": bus.MaxPayload, "max_subscriptions": bus.MaxSubscriptions, "max_control_line": bus.MaxControlLine,
		"max_pending": bus.MaxPending, "ping_interval": bus.PingInterval.String(),
	}
	maps.Copy(m, Accounts(o.Keys))
	return m
}

func (o Options) gateways() []any {
	var all []any
	for _, g := range o.Gateways {
		all = append(all, values{"name": g.Name, "urls": anys(g.URLs)})
	}
	return all
}

// leafnodes is the listener for leaves, and where a leaf connects to. A leaf has no more
// than the account of the buckets: devices of two sites have nothing to say to each other.
func (o Options) leafnodes() values {
	if len(o.Remotes) > 0 {
		remote := values{
			"urls": anys(o.Remotes), "account": bus.AccountCore,
			"tls": values{"cert_file": clientCerts + "tls.crt", "key_file": clientCerts + "tls.key", "ca_file": authority},
		}
		return values{"enabled": true, "tls": o.tls(nil), "merge": values{"remotes": []any{remote}}}
	}
	if len(o.Leaves) == 0 {
		return nil
	}
	var users []any
	for _, name := range o.Leaves {
		users = append(users, values{"user": name, "account": bus.AccountCore})
	}
	return values{
		"enabled": true, "tls": o.tls(values{"verify_and_map": true}),
		"merge": values{"authorization": values{"users": users}},
	}
}

func anys(texts []string) []any {
	var all []any
	for _, t := range texts {
		all = append(all, t)
	}
	return all
}

var (
	// imageForm is what the chart may put into a manifest.
	imageForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$`)
	serviceTypes = []string{"ClusterIP", "NodePort", "LoadBalancer"}
)

func (o Options) check() error {
	for _, each := range []func() error{o.checkPreset, o.checkNames, o.checkPeers} {
		if err := each(); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) checkPreset() error {
	switch {
	case !slices.Contains(Presets, o.Preset):
		return fmt.Errorf("preset %.40q: it must be one of %s", o.Preset, strings.Join(Presets, ", "))
	case o.Replicas < 0 || o.Replicas > 99:
		return fmt.Errorf("replicas %d: it must be within 1 and 99", o.Replicas)
	case o.replicas() < 2 && (o.Preset == Cluster || o.Preset == Supercluster):
		return fmt.Errorf("replicas %d: preset %s has at least 2 servers, since JetStream in a cluster needs as many; take 3, of which one may fail", o.replicas(), o.Preset)
	case o.replicas() > 1 && (o.Preset == Basic || o.Preset == Leaf):
		return fmt.Errorf("replicas %d: preset %s has one server: use preset %s", o.replicas(), o.Preset, Cluster)
	case o.ServiceType != "" && !slices.Contains(serviceTypes, o.ServiceType):
		return fmt.Errorf("service-type %.40q: it must be one of %s", o.ServiceType, strings.Join(serviceTypes, ", "))
	case o.Image != "" && !imageForm.MatchString(o.Image):
		return fmt.Errorf("image %.80q is not the name of an image", o.Image)
	}
	size, err := resource.ParseQuantity(o.FileStore)
	if err != nil || size.Value() < 1<<20 || strings.ContainsAny(o.FileStore, "eEm.") {
		return fmt.Errorf("file-store %.40q: it must be a size such as 10Gi", o.FileStore)
	}
	return nil
}

// maxName leaves room for what the chart adds: -headless, and the number of a pod.
const maxName = 50

func (o Options) checkNames() error {
	if errs := validation.IsDNS1035Label(o.Name); len(errs) > 0 || len(o.Name) > maxName {
		return fmt.Errorf("name %.80q: it must be at most %d lower-case letters, digits and '-', beginning with a letter", o.Name, maxName)
	}
	for flag, name := range map[string]string{"tls-secret": o.TLSSecret, "ca-secret": o.CASecret} {
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			return fmt.Errorf("%s %.80q is not the name of a Secret", flag, name)
		}
	}
	for _, name := range o.Leaves {
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			return fmt.Errorf("accept-leaf %.80q: it must be a DNS name, as in the certificate of the leaf", name)
		}
	}
	return nil
}

func (o Options) checkPeers() error {
	switch {
	case o.Preset == Supercluster && len(o.Gateways) == 0:
		return errors.New("gateway: preset supercluster needs the other clusters: NAME=nats://HOST:7222")
	case o.Preset != Supercluster && len(o.Gateways) > 0:
		return fmt.Errorf("gateway: only preset supercluster has gateways, not %s", o.Preset)
	case o.Preset == Leaf && len(o.Remotes) == 0:
		return errors.New("remote: preset leaf needs the NATS to connect to: tls://HOST:7422")
	case o.Preset != Leaf && len(o.Remotes) > 0:
		return fmt.Errorf("remote: only preset leaf connects to another NATS, not %s", o.Preset)
	case o.Preset == Leaf && len(o.Leaves) > 0:
		return errors.New("accept-leaf: a leaf takes no leaves of its own")
	}
	seen := map[string]bool{o.Name: true}
	for _, g := range o.Gateways {
		if errs := validation.IsDNS1035Label(g.Name); len(errs) > 0 || len(g.Name) > maxName {
			return fmt.Errorf("gateway %.80q: it must be the --name of another cluster", g.Name)
		}
		if seen[g.Name] {
			return fmt.Errorf("gateway %q: the name is there twice, or is that of this cluster", g.Name)
		}
		seen[g.Name] = true
		if err := checkURLs("gateway", g.URLs); err != nil {
			return err
		}
		if err := checkHosts(g.URLs); err != nil {
			return err
		}
	}
	return checkURLs("remote", o.Remotes)
}

// checkHosts wants names in the URLs of gateways: certificates are compared by them.
func checkHosts(urls []string) error {
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil && net.ParseIP(u.Hostname()) != nil {
			return fmt.Errorf("gateway %.80q: it must be a DNS name, which the certificate of the other cluster has", text)
		}
	}
	return nil
}

// checkURLs wants nothing in URLs but where a server listens: no name and no password,
// which do not belong into values.
func checkURLs(flag string, urls []string) error {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || u.Port() == "" || text != u.Scheme+"://"+u.Host {
			return fmt.Errorf("%s %.80q: it must have the form nats://HOST:PORT or tls://HOST:PORT, without a name or password", flag, redacted(u))
		}
	}
	return nil
}

// redacted is a URL without a password that somebody wrote into it.
func redacted(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}
