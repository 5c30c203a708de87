//go:build linux

package durability_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	namespace = metav1.NamespaceDefault
	writers   = 4
	// counterName is a ConfigMap that is written again and again.
	counterName = "counter"
)

// cuts is how often the power is cut: FLEET_CUTS, or 3.
func cuts(t *testing.T) int {
	t.Helper()
	s := os.Getenv("FLEET_CUTS")
	if s == "" {
		return 3
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// acknowledged is what the API has said yes to.
type acknowledged struct {
	mu sync.Mutex // guards what follows
	// created has the names of ConfigMaps.
	created map[string]bool
	// counter is the last value that was written.
	counter int
	// revision is the highest resource version that was seen.
	revision uint64
	// gone has the fingerprints of Devices that were deleted, by name.
	gone map[string]string
	// total counts the answers.
	total int
}

func (a *acknowledged) note(o metav1.Object, change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o != nil {
		if rv, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64); err == nil {
			a.revision = max(a.revision, rv)
		}
	}
	change()
	a.total++
}

// count returns how many answers there are, and how many of them are about
// Devices, which take the longest.
func (a *acknowledged) count() (total, gone int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total, len(a.gone)
}

// rig is a server on a disk whose power is cut, and what its clients know.
type rig struct {
	t      *testing.T
	disk   *disk
	server *process.Server
	kube   kubernetes.Interface
	fleet  *client.Client
	acks   acknowledged
}

func newRig(t *testing.T) *rig {
	t.Helper()
	binary, err := filepath.Abs("../../bin/fleet-server")
	must(t, err)
	if _, err := os.Stat(binary); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: make build", err)
		}
		t.Skipf("%v: make build", err)
	}
	r := &rig{t: t, disk: newDisk(t), acks: acknowledged{created: map[string]bool{}, gone: map[string]string{}}}
	r.server, err = process.StartServer(t.Context(), process.Config{Binary: binary, DataDir: filepath.Join(r.disk.Dir, "data")})
	must(t, err)
	t.Cleanup(func() { r.server.Kill() })
	r.connect()
	return r
}

func (r *rig) connect() {
	r.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", r.server.Kubeconfig())
	must(r.t, err)
	config.QPS = -1
	r.kube, err = kubernetes.NewForConfig(config)
	must(r.t, err)
	r.fleet, err = client.New(config)
	must(r.t, err)
}

// write keeps every kind of writer busy until ctx ends. What the server does
// not answer counts for nothing.
func (r *rig) write(ctx context.Context, round int) *sync.WaitGroup {
	var work sync.WaitGroup
	for w := range writers {
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				r.createConfigMap(ctx, fmt.Sprintf("cm-%d-%d-%d", round, w, i))
			}
		})
	}
	work.Go(func() {
		for ctx.Err() == nil {
			r.countUp(ctx)
		}
	})
	work.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			r.throwOut(ctx, fmt.Sprintf("edge-%d-%d", round, i))
		}
	})
	return &work
}

func (r *rig) createConfigMap(ctx context.Context, name string) {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name}}
	if o, err := r.kube.CoreV1().ConfigMaps(namespace).Create(ctx, cm, metav1.CreateOptions{}); err == nil {
		r.acks.note(o, func() { r.acks.created[name] = true })
	}
}

func (r *rig) countUp(ctx context.Context) {
	r.acks.mu.Lock()
	next := r.acks.counter + 1
	r.acks.mu.Unlock()
	patch := fmt.Appendf(nil, `{"data":{"n":"%d"}}`, next)
	o, err := r.kube.CoreV1().ConfigMaps(namespace).Patch(ctx, counterName, types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		r.acks.note(o, func() { r.acks.counter = next })
	}
}

// throwOut creates a Device and deletes it. It is out when the object is gone.
func (r *rig) throwOut(ctx context.Context, name string) {
	fingerprint := wire.Sum([]byte(name)).String()
	d := &v1alpha1.Device{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{v1alpha1.DeviceFinalizer}},
		Spec:       v1alpha1.DeviceSpec{Enrollment: &v1alpha1.DeviceEnrollment{KeyFingerprint: fingerprint, EnrolledAt: new(metav1.Now())}},
	}
	if _, err := r.fleet.Devices().Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return
	}
	if err := r.fleet.Devices().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return
	}
	err := wait.Until(ctx, time.Minute, time.Millisecond, func() error {
		_, err := r.fleet.Devices().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%s is still there: %w", name, err)
	})
	if err == nil {
		r.acks.note(nil, func() { r.acks.gone[name] = fingerprint })
	}
}

// check compares what the server has with what it had acknowledged.
func (r *rig) check() {
	r.t.Helper()
	list, err := r.kube.CoreV1().ConfigMaps(namespace).List(r.t.Context(), metav1.ListOptions{})
	must(r.t, err)
	held := map[string]string{}
	for _, cm := range list.Items {
		held[cm.Name] = cm.Data["name"]
	}
	lost := 0
	for name := range r.acks.created {
		if held[name] != name {
			lost++
		}
	}
	if lost > 0 {
		r.t.Errorf("%d of %d acknowledged objects are lost", lost, len(r.acks.created))
	}
	if revision, err := strconv.ParseUint(list.ResourceVersion, 10, 64); err != nil || revision < r.acks.revision {
		r.t.Errorf("the resource version went back from %d to %s", r.acks.revision, list.ResourceVersion)
	}
	counter, err := r.kube.CoreV1().ConfigMaps(namespace).Get(r.t.Context(), counterName, metav1.GetOptions{})
	must(r.t, err)
	if n, err := strconv.Atoi(counter.Data["n"]); err != nil || n < r.acks.counter {
		r.t.Errorf("the counter went back from %d to %q", r.acks.counter, counter.Data["n"])
	}
	r.checkTombstones()
}

func (r *rig) checkTombstones() {
	r.t.Helper()
	revoked, err := os.ReadFile(filepath.Join(r.disk.Dir, "data", "revoked-keys.jsonl"))
	must(r.t, err)
	for name, fingerprint := range r.acks.gone {
		if !bytes.Contains(revoked, []byte(fingerprint)) {
			r.t.Errorf("the key of %s, which was revoked, may come back", name)
		}
		if _, err := r.fleet.Devices().Get(r.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			r.t.Errorf("%s, which was deleted, is back (%v)", name, err)
		}
	}
}

func TestPowerCutsLoseNothingAcknowledged(t *testing.T) {
	r := newRig(t)
	_, err := r.kube.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: counterName}}, metav1.CreateOptions{})
	must(t, err)
	for round := range cuts(t) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		total, gone := r.acks.count()
		enough := total + 50 + rand.IntN(500)
		work := r.write(ctx, round)
		wait.For(t, "acknowledged writes", time.Minute, time.Millisecond, func() error {
			if n, out := r.acks.count(); n < enough || out == gone {
				return fmt.Errorf("%d of %d writes, %d devices", n, enough, out)
			}
			return nil
		})
		r.disk.cut(r.server.PID(), func() {
			r.server.Kill()
			cancel()
			work.Wait()
		})
		server, err := r.server.Restart(t.Context())
		must(t, err)
		r.server = server
		r.connect()
		r.check()
		if t.Failed() {
			t.Fatalf("after cut %d: %s", round+1, r.server.Log())
		}
		t.Logf("cut %d: %d objects, %d devices revoked, counter at %d, resource version %d: all there",
			round+1, len(r.acks.created), len(r.acks.gone), r.acks.counter, r.acks.revision)
	}
}
