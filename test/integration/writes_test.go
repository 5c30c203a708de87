package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// metrics are fleet's own, by name and labels as the server writes them.
func (s *server) metrics() map[string]float64 {
	s.t.Helper()
	text, err := kubernetes.NewForConfigOrDie(s.rest()).Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	metrics := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		i := strings.LastIndex(line, " ")
		if !strings.HasPrefix(line, "fleet_") || i < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		metrics[line[:i]] = value
	}
	return metrics
}

// writes are those of the controllers, by kind and reason: "Device report", for example.
func (s *server) writes() map[string]int {
	s.t.Helper()
	writes := map[string]int{}
	for name, n := range s.metrics() {
		var kind, reason string
		if _, err := fmt.Sscanf(name, "fleet_api_writes_total{kind=%q,reason=%q}", &kind, &reason); err == nil {
			writes[kind+" "+reason] = int(n)
		}
	}
	return writes
}

// quiet returns when the controllers have written nothing for longer than they gather
// what is to be written.
func (s *server) quiet() map[string]int {
	s.t.Helper()
	const longer = 2 * time.Second
	last, since := s.writes(), time.Now()
	wait.For(s.t, "the controllers are done", waitTimeout, 100*time.Millisecond, func() error {
		if now := s.writes(); !cmp.Equal(now, last) {
			last, since = now, time.Now()
		}
		if time.Since(since) < longer {
			return errors.New("they still write")
		}
		return nil
	})
	return last
}

// What lets devices in, until nothing is written any more: three writes of each Device, of
// that it enrolled, of its report, and of everything else together. The status of the
// token is written now and then, not for each of them, and does not grow with them.
// No other test runs meanwhile: a crowd would keep devices from saying things together.
func TestWritesOfAnEnrollment(t *testing.T) {
	const devices = 10
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	before, began := s.quiet(), time.Now()
	fleet := &sim.Fleet{}
	for i := range devices {
		d, err := sim.New(sim.Config{Device: fmt.Sprintf("edge-%d", i), Server: s.enrollURL(), Token: token, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		fleet.Devices = append(fleet.Devices, d)
	}
	if err := fleet.Enroll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, d := range fleet.Devices {
		s.run(d)
	}
	for _, d := range fleet.Devices {
		s.deviceOnce(d.Config.Device, func(d *v1alpha1.Device) bool { return isReady(d) && d.Status.Nonce != nil })
	}
	after := s.quiet()
	took := time.Since(began)
	of := func(kind string) map[string]int {
		writes := map[string]int{}
		for name, n := range after {
			if of, reason, _ := strings.Cut(name, " "); of == kind && n > before[name] {
				writes[reason] = n - before[name]
			}
		}
		return writes
	}
	writes, sum := of("Device"), 0
	for _, n := range writes {
		sum += n
	}
	// A device that takes half a second for its report, on a machine that others keep busy,
	// has its status written once more.
	if writes["enrollment"] != devices || writes["report"] != devices || writes["connected"] != devices || sum > 3*devices+devices/5 {
		t.Errorf("writes of %d Devices are %v, want three of each", devices, writes)
	}
	if n := of("EnrollmentToken")["status"]; n == 0 || n > 2+int(took.Seconds()) {
		t.Errorf("the status of the token was written %d times for %d devices within %s, want at most one a second", n, devices, took)
	}
	if writes := of("EnrollmentRequest"); len(writes) > 0 {
		t.Errorf("a token that vouches for devices makes requests: %v", writes)
	}
	parsed, err := wire.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.client().EnrollmentTokens().Get(t.Context(), parsed.ID, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := json.Marshal(o.Status); err != nil || o.Status.Uses != devices || len(status) > 512 {
		t.Errorf("the status of the token is %s, %v", status, err)
	}

	m := s.metrics()
	if n := m["fleet_roster_entries"]; n != devices {
		t.Errorf("the roster has %v entries, want %d", n, devices)
	}
	if m[`fleet_queue_depth{queue="device"}`] != 0 || m[`fleet_queue_latency_seconds_count{queue="device"}`] < devices {
		t.Errorf("the queue of devices is not measured: %v", m)
	}
	for name := range m {
		if strings.Contains(name, "edge-") {
			t.Errorf("%s names a device", name)
		}
	}
	if err := s.client().Devices().Delete(t.Context(), "edge-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the roster forgets a Device that is deleted", func() error {
		if n := s.metrics()["fleet_roster_entries"]; n != devices-1 {
			return fmt.Errorf("it has %v entries", n)
		}
		return nil
	})
}

// Each part of the machinery says why it writes, in words that the reference explains.
func TestWritesByReason(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c, kube := s.client(), kubernetes.NewForConfigOrDie(s.rest())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s.create(deployment("hello", "a"))
	_, stop := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.deviceOnce("edge-1", isReady)
	stop()
	_, err := c.Devices().Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: "prepared"}}, metav1.CreateOptions{})
	must(err)
	approved := s.applicant("edge-2", s.tokenToApprove())
	done := make(chan error, 1)
	go func() { done <- approved.Enroll(t.Context()) }()
	s.decide("edge-2", v1alpha1.RequestApproved)
	must(<-done)
	must(c.Devices().Delete(t.Context(), "edge-2", metav1.DeleteOptions{}))
	must(c.Deployments("default").Delete(t.Context(), "hello", metav1.DeleteOptions{}))
	_, err = kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "site"}}, metav1.CreateOptions{})
	must(err)
	orphan := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "orphan", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: "5f0b1f43-5c5a-4d5e-8a2f-000000000000"}}}}
	_, err = kube.CoreV1().ConfigMaps("default").Create(t.Context(), orphan, metav1.CreateOptions{})
	must(err)
	must(kube.CoreV1().Namespaces().Delete(t.Context(), "site", metav1.DeleteOptions{}))

	var writes map[string]int
	eventually(t, "each write is counted", func() error {
		writes = s.writes()
		for _, name := range []string{
			"Deployment finalizer", "Deployment verdict", "Deployment status", "Deployment release", "ControllerRevision new",
			"Device enrollment", "Device report", "Device connected", "Device disconnected", "Device finalizer", "Device identity", "Device status", "Device release",
			"EnrollmentRequest enrollment", "EnrollmentRequest status", "EnrollmentRequest over", "EnrollmentToken status",
			"Event new", "any garbage", "any namespace", "Namespace release", "ConfigMap term",
		} {
			if writes[name] == 0 {
				return fmt.Errorf("%s: none among %v", name, writes)
			}
		}
		return nil
	})
	reference, err := os.ReadFile("../../docs/reference/ports-files-metrics.md")
	must(err)
	_, explained, _ := strings.Cut(string(reference), "### Writes")
	for name := range writes {
		kind, reason, _ := strings.Cut(name, " ")
		if !strings.Contains(explained, "| "+kind+" | ") || !strings.Contains(explained, "`"+reason+"`") {
			t.Errorf("the reference does not explain %s", name)
		}
	}
}
