package client

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ErrKubeconfig: a kubeconfig asks for more than a connection.
var ErrKubeconfig = errors.New("it may name servers, and hold certificates and keys, and nothing else")

// Fields that a plain kubeconfig may have. All others run a program, read a
// file, or send what is asked elsewhere; so do those that a later release of
// client-go brings, until somebody decides about them.
var (
	plainCluster = []string{"server", "tls-server-name", "certificate-authority-data", "disable-compression", "extensions"}
	plainUser    = []string{"client-certificate-data", "client-key-data", "extensions"}
)

// WriteKubeconfig makes a kubeconfig for a server's API, whose root certificates,
// and whose client's certificate and key, are in PEM. It is one that ParseKubeconfig
// takes.
func WriteKubeconfig(server string, roots []byte, user string, cert, key []byte) ([]byte, error) {
	const name = "fleet"
	c := api.NewConfig()
	c.Clusters[name] = &api.Cluster{Server: server, CertificateAuthorityData: roots}
	c.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	c.Contexts[name] = &api.Context{Cluster: name, AuthInfo: user}
	c.CurrentContext = name
	return clientcmd.Write(*c)
}

// ParseKubeconfig parses a kubeconfig that another account could have written:
// one that holds all that it needs. An error wraps ErrKubeconfig when it has
// more than that, such as a program to run or a file to read.
func ParseKubeconfig(data []byte) (*api.Config, error) {
	config, err := clientcmd.Load(data)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(config.Clusters)) {
		cluster := config.Clusters[name]
		if err := plain("cluster "+name, cluster, plainCluster); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(cluster.Server, "https://") {
			return nil, fmt.Errorf("cluster %s: server %.100q does not begin with https://: %w", name, cluster.Server, ErrKubeconfig)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(config.AuthInfos)) {
		if err := plain("user "+name, config.AuthInfos[name], plainUser); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// plain names the first field that is set and not allowed.
func plain(what string, entry any, allowed []string) error {
	v := reflect.ValueOf(entry).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		field := v.Field(i)
		empty := field.IsZero() || (field.Kind() == reflect.Map || field.Kind() == reflect.Slice) && field.Len() == 0
		if name != "-" && !empty && !slices.Contains(allowed, name) {
			return fmt.Errorf("%s has %s: %w", what, name, ErrKubeconfig)
		}
	}
	return nil
}
