package integration_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A Secret reaches the device whose manifest names it, over its own
// connection. No other device gets it, and nothing that the server writes holds
// it in clear.
func TestSecretReachesOneDeviceAndNoDisk(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	c := s.holder("edge-1").enroll(token).connect()
	other := s.holder("edge-2").enroll(s.token(map[string]string{"group": "b"})).connect()
	c.settle()
	other.settle()
	d := deployment("web", "a")
	d.Spec.Score.Data = runtime.RawExtension{Raw: []byte(`{"services":[{"name":"web","image":"localhost/hello:1","env":[{"name":"P","valueFrom":{"secretKeyRef":{"name":"db","key":"password"}}}]}]}`)}
	s.create(d)
	s.condition("default", "web", v1alpha1.DeploymentAccepted, metav1.ConditionFalse, v1alpha1.ReasonSecret)

	kube, err := kubernetes.NewForConfig(s.rest())
	if err != nil {
		t.Fatal(err)
	}
	const content = "correct horse battery staple"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"}, StringData: map[string]string{"password": content}}
	if secret, err = kube.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.condition("default", "web", v1alpha1.DeploymentAccepted, metav1.ConditionTrue, v1alpha1.ReasonValid)
	var digest string
	manifest := func() error {
		m := c.snapshot().Manifest
		if m == nil || len(m.Entries) != 1 || m.Entries[0].Hold || m.Entries[0].SecretsDigest == digest {
			return fmt.Errorf("manifest is %+v", m)
		}
		digest = m.Entries[0].SecretsDigest
		return nil
	}
	eventually(t, "an entry with secrets", manifest)
	ask := func(c *connection, namespace, name string) wire.SecretReply {
		return send[wire.SecretReply](c, wire.KindSecret, wire.SecretRequest{Namespace: namespace, Name: name})
	}
	if r := ask(c, "default", "db"); r.Error != nil || string(r.Data["password"]) != content {
		t.Errorf("the device gets %v", r.Error)
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
	s.stop()
	files := 0
	err = filepath.WalkDir(s.config.DataDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("horse")) {
			t.Errorf("%s holds the content of a Secret", path)
		}
		return err
	})
	if err != nil || files < 10 {
		t.Errorf("%d files were looked at, %v", files, err)
	}
}
