package main

import (
	"net"
	"net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/client"
)

// What the command prints opens the API by another name of the server.
func TestKubeconfigForAnotherMachine(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, port, err := net.SplitHostPort(s.ready.API.String())
	if err != nil {
		t.Fatal(err)
	}
	out := s.run("kubeconfig", "--server", "https://localhost:"+port)
	if _, err := client.ParseKubeconfig([]byte(out)); err != nil {
		t.Errorf("it has more than a connection: %v", err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(config.Host); err != nil || u.Host != "localhost:"+port {
		t.Errorf("it leads to %s", config.Host)
	}
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Devices().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("listing devices with it: %v", err)
	}
	if _, err := s.try("kubeconfig"); err == nil || !strings.Contains(err.Error(), "it must have the form https://HOST:PORT") {
		t.Errorf("without an address: %v", err)
	}
	for server, says := range map[string]string{
		"gateway:6443":                    "it must have the form",
		"http://gateway:6443":             "it must have the form",
		"https://gateway":                 "it must have the form",
		"https://gateway:99999":           "it must have the form",
		"https://gateway:6443/x":          "it must have the form",
		"https://a:b@gateway:6443":        "it must have the form",
		"https://gateway.example.com:443": "--tls-san gateway.example.com",
	} {
		out, err := s.try("kubeconfig", "--server", server)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(out, "client-key-data") {
			t.Errorf("--server %q: %v, want an error that says %q", server, err, says)
		}
	}
}
