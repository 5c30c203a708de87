package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/client"
)

const plainKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: fleet, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: eA==, CLUSTER}}]
users: [{name: admin, user: {client-certificate-data: eA==, client-key-data: eA==, USER}}]
contexts: [{name: fleet, context: {cluster: fleet, user: admin, namespace: press}}]
current-context: fleet
`

// kubeconfig returns the plain one with something added to its cluster or user.
func kubeconfig(cluster, user string) []byte {
	return []byte(strings.NewReplacer("CLUSTER", cluster, "USER", user).Replace(plainKubeconfig))
}

func TestAKubeconfigHoldsOnlyAConnection(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cluster, user, want string
	}{
		"plain":              {"", "", ""},
		"server name":        {"tls-server-name: gateway", "", ""},
		"program":            {"", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true, interactiveMode: Never}", "user admin has exec"},
		"provider":           {"", "auth-provider: {name: oidc}", "user admin has auth-provider"},
		"token file":         {"", "tokenFile: /root/secret", "user admin has tokenFile"},
		"certificate file":   {"", "client-certificate: /root/secret", "user admin has client-certificate"},
		"key file":           {"", "client-key: /root/secret", "user admin has client-key"},
		"token":              {"", "token: abc", "user admin has token"},
		"password":           {"", "username: a, password: b", "user admin has username"},
		"other name":         {"", "as: b", "user admin has act-as"},
		"authority file":     {"certificate-authority: /root/secret", "", "cluster fleet has certificate-authority"},
		"no verification":    {"insecure-skip-tls-verify: true", "", "cluster fleet has insecure-skip-tls-verify"},
		"proxy":              {"proxy-url: http://127.0.0.1:1", "", "cluster fleet has proxy-url"},
		"second user":        {"", "}}, {name: other, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true, interactiveMode: Never}", "user other has exec"},
		"plain text":         {"}}, {name: other, cluster: {server: 'http://127.0.0.1'", "", "does not begin with https://"},
		"path in the server": {"}}, {name: other, cluster: {server: 'unix:///run/docker.sock'", "", "does not begin with https://"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := client.ParseKubeconfig(kubeconfig(tc.cluster, tc.user))
			if (tc.want != "") != errors.Is(err, client.ErrKubeconfig) || tc.want != "" && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAKubeconfigIsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "admin.kubeconfig"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(path, kubeconfig("", ""), 0o600), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	if c, err := client.ReadKubeconfig(path); err != nil || c.Host != "https://127.0.0.1:6443" || len(c.KeyData) == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := client.ReadKubeconfig(link); err == nil {
		t.Error("a link is followed")
	}
}

// FuzzKubeconfig: whatever is taken leads to no file and no program.
func FuzzKubeconfig(f *testing.F) {
	f.Add(kubeconfig("", ""))
	f.Add(kubeconfig("proxy-url: http://x", ""))
	f.Add(kubeconfig("", "tokenFile: /x"))
	f.Add(kubeconfig("", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true, interactiveMode: Never}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := client.ParseKubeconfig(data)
		if err != nil {
			return
		}
		c, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
		if err != nil {
			return
		}
		if c.ExecProvider != nil || c.AuthProvider != nil || c.Proxy != nil || c.BearerTokenFile != "" || c.CAFile != "" || c.CertFile != "" || c.KeyFile != "" || c.Insecure {
			t.Errorf("%q is taken", data)
		}
	})
}
