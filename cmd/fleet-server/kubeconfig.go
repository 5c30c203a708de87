package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/client"
)

// askTimeout bounds the look at the server's certificate.
const askTimeout = 10 * time.Second

func newKubeconfig(o *options) *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use:   "kubeconfig --server https://HOST:6443",
		Short: "Print a kubeconfig for kubectl on another machine",
		Long: "Print the administrator's kubeconfig with the address by which another machine reaches this server.\n" +
			"It holds a key with which one can do everything: keep it as you would a root password.",
		Example: "  fleet-server kubeconfig --server https://gateway.example.com:6443 > fleet.kubeconfig",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := checkAddress(server)
			if err != nil {
				return fmt.Errorf("--server %q: %w", server, err)
			}
			config, err := o.restConfig()
			if err != nil {
				return err
			}
			if err := names(cmd.Context(), config, address.Hostname()); err != nil {
				return err
			}
			data, err := client.WriteKubeconfig("https://"+address.Host, config.CAData, "fleet", config.CertData, config.KeyData)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	cmd.Flags().StringVar(&server, "server", "", "the address of the Kubernetes API, https://HOST:PORT, as the other machine reaches it")
	return cmd
}

func checkAddress(server string) (*url.URL, error) {
	const form = "it must have the form https://HOST:PORT, with the host by which the other machine reaches this server"
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || !isPort(u.Port()) || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, errors.New(form)
	}
	return u, nil
}

// names checks that the server's certificate names a host: kubectl would refuse it
// otherwise. It asks the server at its local address, since a name may lead to it
// from elsewhere only.
func names(ctx context.Context, config *rest.Config, host string) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.CAData)
	local, err := url.Parse(config.Host)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: host}}
	conn, err := dialer.DialContext(ctx, "tcp", local.Host)
	if mismatch, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("the server's certificate does not name %s: start the server with --tls-san %s: %w", host, host, mismatch)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("asking the server for its certificate: %w: %s", err, askForServer)
	}
	if err != nil {
		return fmt.Errorf("asking the server for its certificate: %w", err)
	}
	return conn.Close()
}
