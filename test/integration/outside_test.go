package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/natschart"
	"fleet.nationtech.io/fleet/pkg/natskeys"
	fleetoperator "fleet.nationtech.io/fleet/pkg/operator"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/remotebus"
	"fleet.nationtech.io/fleet/test/kube"
	natstest "fleet.nationtech.io/fleet/test/nats"
)

// cluster is an existing Kubernetes and an existing NATS, with an operator of several
// processes.
type cluster struct {
	*server

	kube    kubernetes.Interface
	bus     remotebus.Config
	conf    string
	natsURL string
}

// newCluster starts everything but operators.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	config := kube.Start(t).Administrator
	c := &cluster{server: &server{t: t, api: config}, natsURL: "tls://" + address(t)}
	var err error
	c.kube, err = kubernetes.NewForConfig(config)
	c.must(err)
	dir := t.TempDir()
	_, err = natskeys.Create(dir)
	c.must(err)
	keys, err := natskeys.ReadPublic(dir)
	c.must(err)
	pairs, err := natskeys.ReadPairs(dir)
	c.must(err)
	c.bus = remotebus.Config{Servers: []string{c.natsURL}, Keys: pairs}
	accounts, err := json.Marshal(natschart.Accounts(keys))
	c.must(err)
	c.conf = fmt.Sprintf("%s\njetstream { store_dir: %q }\n", accounts[1:len(accounts)-1], t.TempDir())
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// nats starts NATS with the certificate that the operator made for it.
func (c *cluster) nats() {
	c.t.Helper()
	dir := c.t.TempDir()
	eventually(c.t, "the certificate of NATS", func() error {
		s, err := c.kube.CoreV1().Secrets("default").Get(c.t.Context(), fleetoperator.NATSSecretName, metav1.GetOptions{})
		for name, data := range s.Data {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
		return err
	})
	at := c.natsURL[len("tls://"):]
	natstest.Start(c.t, c.conf+fmt.Sprintf(`
server_name: one
listen: %q
tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, handshake_first: true }
`, at, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")))
	root, err := c.kube.CoreV1().Secrets("default").Get(c.t.Context(), "fleet-authorities", metav1.GetOptions{})
	c.must(err)
	c.root, err = pki.DecodeCert(root.Data["root.crt"])
	c.must(err)
}

// process is one process of an operator.
type process struct {
	*fleetoperator.Operator

	enroll string
	stop   context.CancelFunc
	done   chan error
}

// operator starts a process.
func (c *cluster) operator(name string) *process {
	c.t.Helper()
	p := &process{enroll: address(c.t), done: make(chan error, 1)}
	var err error
	p.Operator, err = fleetoperator.New(fleetoperator.Config{
		API: rest.CopyConfig(c.api), Namespace: "default", Identity: name, Bus: c.bus, EnrollListen: p.enroll,
		Hosts: []string{"localhost"}, Servers: []string{c.natsURL}, Logger: slog.New(slog.NewTextHandler(c.t.Output(), nil)).With("process", name),
	})
	c.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() { p.done <- p.Run(ctx) }()
	c.t.Cleanup(func() { p.end(c.t) })
	return p
}

// end ends a process; a second call does nothing.
func (p *process) end(t testing.TB) {
	if p.stop == nil {
		return
	}
	p.stop()
	p.stop = nil
	if err := <-p.done; err != nil {
		t.Error(err)
	}
}

// leads waits until a process leads, and has devices enroll there.
func (c *cluster) leads(p *process) {
	c.t.Helper()
	eventually(c.t, "a leader", func() error {
		select {
		case <-p.Leads():
			return nil
		case err := <-p.done:
			c.t.Fatalf("the process ended: %v", err)
			return err
		default:
			return errors.Join(errors.New("it does not lead"), p.Ready())
		}
	})
	_, port, _ := net.SplitHostPort(p.enroll)
	c.enroll = "https://" + net.JoinHostPort("localhost", port)
}

// Beside an existing Kubernetes and NATS, devices enroll, run what they should and are
// counted, and one that is revoked is out. When the process that leads goes, another one does
// the same, and no device takes part in anything but a new connection.
func TestBesideAKubernetesAndNATS(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first := c.operator("first")
	c.nats()
	c.leads(first)
	second := c.operator("second")
	const devices = 4
	token := c.token(map[string]string{"group": "a"})
	running := map[string]*sim.Device{}
	for i := range devices {
		name := fmt.Sprintf("edge-%d", i)
		running[name], _ = c.device(sim.Config{Device: name, Token: token, Fail: i == 0})
	}
	c.create(deployment("hello", "a"))
	c.aggregate("default", "hello", counts{devices, devices - 1, 1, 0})

	c.editDevice("edge-3", func(d *v1alpha1.Device) { d.Spec.Revoked = true })
	c.aggregate("default", "hello", counts{devices - 1, devices - 2, 1, 0})

	first.end(t)
	lease, err := c.kube.CoordinationV1().Leases("default").Get(t.Context(), fleetoperator.LeaseName, metav1.GetOptions{})
	c.must(err)
	if holder := *lease.Spec.HolderIdentity; holder == "first" {
		t.Error("a process that has ended keeps the Lease")
	}
	c.leads(second)
	c.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Spec.Score = deployment("hello", "a", "edited").Spec.Score })
	c.aggregate("default", "hello", counts{devices - 1, devices - 2, 1, 0})
	api, err := client.New(c.api)
	c.must(err)
	for name := range running {
		d, err := api.Devices().Get(t.Context(), name, metav1.GetOptions{})
		c.must(err)
		if len(d.Status.Claimants) > 0 {
			t.Errorf("%s is taken for a copy of itself: %+v", name, d.Status.Claimants)
		}
	}
}
