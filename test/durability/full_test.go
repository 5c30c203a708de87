//go:build linux

package durability_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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
