package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/agent"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/trace"
)

// run runs a whole agent, with a podman in memory, until the end of the test.
func (a *agentIdentity) run(podman *containertest.Fake) {
	a.t.Helper()
	log := slog.New(slog.NewTextHandler(a.t.Output(), nil))
	m, l := a.open(log)
	drivers := workload.Drivers{driver.New(driver.Config{Runtime: podman, Registry: l, Log: log})}
	device := agent.New(agent.Config{
		Device: m.Identity().Device, Enrollment: m.Identity().Enrollment, Version: "v1", Servers: m.Identity().Servers,
		Link: l, Credentials: m, Store: a.store, Drivers: drivers,
		Facts: func() wire.Inventory { return wire.Inventory{} }, HeartbeatInterval: time.Minute, SnapshotInterval: time.Hour, Log: log,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); device.Run(ctx, func() {}) }()
	a.t.Cleanup(func() { cancel(); <-done; l.Close() })
}

// shows waits until a text, which is no secret, is in a file whose path has a
// part: the same search would find a secret there. again comes before each look.
func shows(t testing.TB, dir, text, part string, again func() error) {
	t.Helper()
	eventually(t, "the control in a file of "+part, func() error {
		if err := again(); err != nil {
			return err
		}
		found, files, err := trace.Find(text, dir)
		if err == nil && !slices.ContainsFunc(found, func(path string) bool { return strings.Contains(path, part) }) {
			err = fmt.Errorf("it is in %v of %d files", found, files)
		}
		return err
	})
}

func nothing() error { return nil }

// A Secret reaches the device whose manifest names it, over its own
// connection. No other device gets it, and nothing that the server and the agent
// write holds it in clear, neither while they run nor afterwards.
func TestSecretReachesOneDeviceAndNoDisk(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	c := s.holder("edge-1").enroll(token).connect()
	other := s.holder("edge-2").enroll(s.token(map[string]string{"group": "b"})).connect()
	c.settle()
	other.settle()
	whole, podman := s.agentIdentity("edge-3", token), containertest.NewFake("localhost/hello:1")
	whole.run(podman)
	d := deployment("web", "a")
	d.Spec.Score.Data = runtime.RawExtension{Raw: []byte(`{"services":[{"name":"web","image":"localhost/hello:1","env":[{"name":"P","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}}]}]}`)}
	s.create(d)
	s.condition("default", "web", v1alpha1.DeploymentAccepted, metav1.ConditionFalse, v1alpha1.ReasonSecretUnavailable)

	kube, err := kubernetes.NewForConfig(s.rest())
	if err != nil {
		t.Fatal(err)
	}
	const content, public = "correct horse battery staple", "incorrect donkey"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, StringData: map[string]string{"password": content}}
	if secret, err = kube.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.condition("default", "web", v1alpha1.DeploymentAccepted, metav1.ConditionTrue, v1alpha1.ReasonValid)
	var entry wire.Entry
	manifest := func() error {
		m := c.snapshot().Manifest
		if m == nil || len(m.Entries) != 1 || m.Entries[0].Hold || m.Entries[0].SecretsDigest == entry.SecretsDigest {
			return fmt.Errorf("manifest is %+v", m)
		}
		entry = m.Entries[0]
		return nil
	}
	eventually(t, "an entry with secrets", manifest)
	ask := func(c *connection, namespace, name string) wire.SecretReply {
		return send[wire.SecretReply](c, wire.KindSecret, wire.SecretRequest{Namespace: namespace, Name: name, Deployment: entry.Name})
	}
	if r := ask(c, "default", "db"); r.Error != nil || string(r.Data["password"]) != content {
		t.Errorf("the device gets %v", r.Error)
	} else if r.Digest != entry.SecretsDigest {
		t.Errorf("the content is that of %q, the manifest says %q", r.Digest, entry.SecretsDigest)
	}
	for name, r := range map[string]wire.SecretReply{
		"another device": ask(other, "default", "db"), "another Secret": ask(c, "kube-system", "fleet-secret-digests"), "no name": ask(c, "", ""),
	} {
		if r.Error == nil || r.Error.Code != wire.RefusedNotFound || len(r.Data) > 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}

	secret.StringData = map[string]string{"password": content + ", changed"}
	if _, err := kube.CoreV1().Secrets("default").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an entry with other secrets", manifest)
	eventually(t, "the Secret at the podman of the agent", func() error {
		names, err := podman.Secrets(t.Context(), wire.DeploymentRef{Namespace: "default", Name: "web"})
		if err == nil && (len(names) != 1 || string(podman.Secret(names[0])) != content+", changed") {
			err = fmt.Errorf("it has %v", names)
		}
		return err
	})

	// In the write-ahead log a thing is for a while only: each try writes again.
	config, changes := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "public"}, Data: map[string]string{"k": public}}, 0
	if _, err := kube.CoreV1().ConfigMaps("default").Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	shows(t, s.config.DataDir, public, ".db-wal", func() error {
		changes++
		patch := fmt.Appendf(nil, `{"data":{"change":"%d"}}`, changes)
		_, err := kube.CoreV1().ConfigMaps("default").Patch(t.Context(), "public", types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	whole.noTrace(content, entry.SecretsDigest)
	s.stop()
	shows(t, s.config.DataDir, public, ".db", nothing)
	whole.noTrace(content, entry.SecretsDigest)
}

// noTrace looks for the content of a Secret in everything that the server and
// the agent have written. The Secret's digest and the score, which are not secret,
// have to be found there.
func (a *agentIdentity) noTrace(content, digest string) {
	a.t.Helper()
	state := a.store.Dir()
	shows(a.t, filepath.Join(a.config.DataDir, "nats"), digest, ".blk", nothing)
	shows(a.t, state, digest, "manifest.json", nothing)
	shows(a.t, state, "secretKeyRef", "bodies", nothing)
	eventually(a.t, "the Secret that the agent keeps", func() error {
		_, err := os.Stat(filepath.Join(state, "secrets", digest))
		return err
	})
	const expected = 10
	if files := trace.None(a.t, content, a.config.DataDir, state); files < expected {
		a.t.Errorf("%d files were looked at", files)
	}
}
