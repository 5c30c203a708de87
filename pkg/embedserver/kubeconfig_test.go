package embedserver_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/pki"
)

// What somebody planted in the kubeconfig does not survive a start; a good one
// does.
func TestAStartReplacesAKubeconfigThatWasChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := pki.Load(filepath.Join(dir, "pki"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	path := filepath.Join(dir, embedserver.KubeconfigName)
	start := func() []byte {
		t.Helper()
		if err := embedserver.WriteKubeconfig(dir, p, l); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := start()
	if !bytes.Equal(first, start()) {
		t.Error("a good one is replaced")
	}
	for name, plant := range map[string]func(*api.AuthInfo){
		"program": func(u *api.AuthInfo) {
			u.Exec = &api.ExecConfig{APIVersion: "client.authentication.k8s.io/v1", Command: "/bin/true", InteractiveMode: api.NeverExecInteractiveMode}
		},
		"token file": func(u *api.AuthInfo) { u.TokenFile = "/etc/shadow" },
	} {
		config, err := clientcmd.Load(first)
		if err != nil {
			t.Fatal(err)
		}
		plant(config.AuthInfos["admin"])
		if err := clientcmd.WriteToFile(*config, path); err != nil {
			t.Fatal(err)
		}
		restarted, err := clientcmd.Load(start())
		if err != nil {
			t.Fatal(err)
		}
		if u := restarted.AuthInfos["admin"]; u.Exec != nil || u.TokenFile != "" {
			t.Errorf("%s: it survived", name)
		}
	}
}
