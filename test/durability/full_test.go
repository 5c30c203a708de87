//go:build linux

package durability_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	// refusedWithin is how long a write to a full disk takes at most, healedWithin
	// how long it takes until writes work when there is room again.
	refusedWithin, healedWithin = time.Second, 5 * time.Second
	ballast                     = "ballast"
)

// fill takes every byte of the disk.
func (d *disk) fill() { d.t.Helper(); d.fillUpTo(0) }

// fillUpTo takes the disk but for so many bytes.
func (d *disk) fillUpTo(free int64) {
	d.t.Helper()
	defer func() {
		if free > 0 {
			must(d.t, os.Truncate(filepath.Join(d.Dir, ballast), d.size(ballast)-free))
		}
	}()
	f, err := os.Create(filepath.Join(d.Dir, ballast))
	must(d.t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			must(d.t, err)
		}
	}
}

func (d *disk) free() {
	d.t.Helper()
	must(d.t, os.Remove(filepath.Join(d.Dir, ballast)))
}

func (d *disk) size(name string) int64 {
	d.t.Helper()
	info, err := os.Stat(filepath.Join(d.Dir, name))
	must(d.t, err)
	return info.Size()
}

// A gateway whose disk is full starts again, as after a power cut: what it manages is
// there to be read and deleted.
func TestAFullGatewayStarts(t *testing.T) {
	r := newRig(t)
	maps := r.kube.CoreV1().ConfigMaps(namespace)
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
	must(t, err)
	r.server.Kill()
	r.disk.fillUpTo(4 << 20)
	server, err := r.server.Restart(t.Context())
	must(t, err)
	r.server = server
	r.connect()
	maps = r.kube.CoreV1().ConfigMaps(namespace)
	_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "refused"}}, metav1.CreateOptions{})
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage {
		t.Errorf("a write ends with %v", err)
	}
	_, err = maps.Get(t.Context(), "kept", metav1.GetOptions{})
	must(t, err)
	must(t, maps.Delete(t.Context(), "kept", metav1.DeleteOptions{}))
}

// A full disk is said at once, with numbers and everywhere, reads go on, and writes
// do when there is room again.
func TestAFullDiskIsSaid(t *testing.T) {
	r := newRig(t)
	maps := r.kube.CoreV1().ConfigMaps(namespace)
	write := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": strings.Repeat("x", 1000)}}, metav1.CreateOptions{})
		return err
	}
	kept, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
	must(t, err)

	r.disk.fill()
	wait.For(t, "noticing", refusedWithin, 50*time.Millisecond, func() error {
		if said, err := r.raw("/readyz"); err == nil || !strings.Contains(said, "disk failed") {
			return fmt.Errorf("/readyz says %q, %v", said, err)
		}
		return nil
	})
	for name, write := range map[string]func() error{
		"a new object": func() error { return write("refused") },
		"a change": func() error {
			changed := kept.DeepCopy()
			changed.Data = map[string]string{"b": "c"}
			_, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{})
			return err
		},
	} {
		begin := time.Now()
		err := write()
		if took := time.Since(begin); took > refusedWithin {
			t.Errorf("%s: refused after %s", name, took)
		}
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage || !strings.Contains(err.Error(), "MiB are free") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := maps.Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("reading: %v", err)
	}
	if metrics, err := r.raw("/metrics"); err != nil || !strings.Contains(metrics, "\nfleet_disk_full 1\n") {
		t.Errorf("the metric does not tell: %v", err)
	}
	if log := r.server.Log(); !strings.Contains(log, "the disk is full") || !strings.Contains(log, "free_bytes=") {
		t.Errorf("the log does not tell: %s", log)
	}

	r.disk.free()
	begin := time.Now()
	wait.For(t, "writing again", healedWithin, 100*time.Millisecond, func() error { return write(fmt.Sprint("healed-", time.Now().UnixNano())) })
	t.Logf("writes work %s after there is room", time.Since(begin))
	if ready, err := r.raw("/readyz"); err != nil {
		t.Errorf("/readyz says %q, %v", ready, err)
	}
	if _, err := r.server.Run(t.Context(), "", "kubectl", "delete", "configmap", "kept"); err != nil {
		t.Error(err)
	}
}

// raw returns what a path says.
func (r *rig) raw(path string) (string, error) {
	answer, err := r.kube.CoreV1().RESTClient().Get().AbsPath(path).Stream(r.t.Context())
	if err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return status.Status().Message + fmt.Sprint(status.Status().Details), err
		}
		return "", err
	}
	defer answer.Close()
	said, err := io.ReadAll(answer)
	return string(said), err
}

// Whoever writes to a full disk is told so at once, with numbers: who applies with kubectl,
// a device that enrolls, and one that reports. It is not forgotten how to write: when there
// is room again, all three go through, and the server is the same process.
func TestAFullDiskIsToldToEverybody(t *testing.T) {
	r := newRig(t)
	token, err := r.server.Token(t.Context(), "--pre-approve", "--uses", "2")
	must(t, err)
	device, err := sim.New(sim.Config{Device: "edge-1", Server: r.server.EnrollURL, Token: token, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, device.Enroll(t.Context()))
	running, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- device.Run(running) }()
	defer func() {
		stop()
		must(t, <-done)
	}()
	wait.For(t, "the device connects", time.Minute, 50*time.Millisecond, func() error {
		if !device.IsSynced() {
			return errors.New("not yet")
		}
		return nil
	})
	report := func(name string) error {
		payload, err := json.Marshal(wire.DeploymentState{DeploymentRef: wire.DeploymentRef{Namespace: namespace, Name: name}, Hash: strings.Repeat("ab", 32), Phase: wire.PhaseRunning, LastEventAt: time.Now().UTC()})
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return device.Link().SendState(ctx, payload)
	}
	apply := func() error {
		_, err := r.server.Apply(t.Context(), `{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: hello, namespace: default}, spec: {
  targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {services: [{name: web, image: "localhost/hello:1"}]}}}}`)
		return err
	}
	must(t, report("before"))

	r.disk.fill()
	wait.For(t, "noticing", refusedWithin, 50*time.Millisecond, func() error {
		if said, err := r.raw("/readyz"); err == nil {
			return fmt.Errorf("/readyz says %q", said)
		}
		return nil
	})
	begin := time.Now()
	if err := report("meanwhile"); err == nil || !strings.Contains(err.Error(), "MiB are free") {
		t.Errorf("a report ends with %v", err)
	}
	if took := time.Since(begin); took > refusedWithin {
		t.Errorf("a report is refused after %s", took)
	}
	if err := apply(); err == nil || !strings.Contains(err.Error(), "MiB are free") {
		t.Errorf("kubectl apply ends with %v", err)
	}
	key, err := keystore.File{}.Create()
	must(t, err)
	busy, enrolled := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := enroll.Enroll(t.Context(), enroll.Request{
			Server: r.server.EnrollURL, Token: token, Device: "edge-2", Key: key, Busy: func(why error) { busy <- why },
		})
		enrolled <- err
	}()
	select {
	case why := <-busy:
		if !strings.Contains(why.Error(), "MiB are free") {
			t.Errorf("a device that enrolls is told %v", why)
		}
	case err := <-enrolled:
		t.Errorf("enrolling on a full disk ends with %v", err)
	}

	r.disk.free()
	for what, write := range map[string]func() error{"reporting": func() error { return report("afterwards") }, "applying": apply} {
		wait.For(t, what+" again", healedWithin, 100*time.Millisecond, write)
	}
	if err := <-enrolled; err != nil {
		t.Errorf("the device that had to wait ends with %v", err)
	}
	if log := r.server.Log(); strings.Contains(log, "takes no writes") {
		t.Errorf("a bucket met the full disk: %s", log)
	}
}
