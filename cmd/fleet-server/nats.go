package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/natschart"
	"fleet.nationtech.io/fleet/pkg/natskeys"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// keysUsage says what flag --keys is of both commands.
const keysUsage = "`DIRECTORY` with issuer.nk, dev.nk, core.nk, sys.nk and, to encrypt requests, xkey.nk: nkeys, of which seeds stay there"

func newNATSValues() *cobra.Command {
	o := natschart.Options{Name: "fleet-nats", FileStore: "10Gi", TLSSecret: "fleet-nats-tls", CASecret: "fleet-nats-tls"}
	var gateways []string
	var keys string
	cmd := &cobra.Command{
		Use:   "nats-values --preset " + strings.Join(natschart.Presets, "|"),
		Short: "Print values for the official Helm chart of NATS",
		Long: "Print values for the official Helm chart of NATS, nats/nats of version " + natschart.Version + ": accounts, limits and TLS as\n" +
			"the NATS inside fleet-server has them. Presets are one server (basic), several (cluster), clusters that\n" +
			"gateways connect (supercluster), and a server that connects to another NATS (leaf).\n" +
			"The values hold public keys and names of Secrets, and nothing secret.",
		Example: "  fleet-server nats-accounts --keys nats-keys --create > accounts.conf\n" +
			"  fleet-server nats-values --preset cluster --keys nats-keys > values.yaml\n" +
			"  helm install fleet-nats nats/nats --version " + natschart.Version + " -f values.yaml\n" +
			"  fleet-server nats-values --preset supercluster --keys nats-keys --name east --gateway west=tls://west.example.com:7222\n" +
			"  fleet-server nats-values --preset leaf --keys nats-keys --name plant-1 --remote tls://nats.example.com:7422",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Gateways, err = parseGateways(gateways); err != nil {
				return err
			}
			if o.Keys, err = readKeys(keys); err != nil {
				return err
			}
			values, err := natschart.Values(o)
			if err != nil {
				return fmt.Errorf("--%w", err)
			}
			text, err := yaml.Marshal(values)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(printable.Exact(cmd.OutOrStdout()), "# Values for chart nats/nats, version %s: preset %s.\n%s", natschart.Version, o.Preset, text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Preset, "preset", "", strings.Join(natschart.Presets, ", "))
	f.StringVar(&keys, "keys", "", keysUsage)
	f.StringVar(&o.Name, "name", o.Name, "name of the release, of the cluster, and of the JetStream domain of a leaf")
	f.IntVar(&o.Replicas, "replicas", 0, "number of servers (default 3 for cluster and supercluster, else 1)")
	f.StringVar(&o.FileStore, "file-store", o.FileStore, "size of the volume of each server")
	f.StringVar(&o.TLSSecret, "tls-secret", o.TLSSecret, "Secret with tls.crt and tls.key of all servers")
	f.StringVar(&o.CASecret, "ca-secret", o.CASecret, "Secret with ca.crt, the authority of servers and devices")
	f.StringVar(&o.ServiceType, "service-type", "", "ClusterIP, NodePort or LoadBalancer")
	f.StringVar(&o.Image, "image", "", "image of nats-server, in place of the chart's")
	f.StringArrayVar(&gateways, "gateway", nil, "another cluster of a supercluster, NAME=URL[,URL…]; may be repeated")
	f.StringArrayVar(&o.Remotes, "remote", nil, "URL of the NATS that a leaf connects to; may be repeated, for its servers")
	f.StringArrayVar(&o.Leaves, "accept-leaf", nil, "DNS name in the certificate of a leaf that may connect; may be repeated")
	for _, flag := range []string{"preset", "keys"} {
		_ = cmd.MarkFlagRequired(flag) // these fail for unknown flags only
	}
	_ = cmd.RegisterFlagCompletionFunc("preset", cobra.FixedCompletions(natschart.Presets, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func parseGateways(texts []string) (all []natschart.Gateway, err error) {
	for _, text := range texts {
		name, urls, found := strings.Cut(text, "=")
		if !found || urls == "" {
			return nil, errors.New("--gateway: it must have the form NAME=URL[,URL…]")
		}
		all = append(all, natschart.Gateway{Name: name, URLs: strings.Split(urls, ",")})
	}
	return all, nil
}

func readKeys(dir string) (natskeys.Public, error) {
	keys, err := natskeys.ReadPublic(dir)
	if err != nil {
		return keys, fmt.Errorf("--keys: %w", err)
	}
	return keys, nil
}

func newNATSAccounts() *cobra.Command {
	var keys string
	var create bool
	cmd := &cobra.Command{
		Use:   "nats-accounts --keys DIRECTORY",
		Short: "Print the accounts for the configuration of a NATS server",
		Long: "Print what nats.conf of an existing NATS needs: accounts DEV, CORE and SYS, and auth_callout, by which the\n" +
			"operator of the fleet says who a device is. It is JSON, which nats.conf takes: include the file there.\n" +
			"It holds public keys only.",
		Example: "  fleet-server nats-accounts --keys nats-keys --create > accounts.conf\n" +
			"  kubectl create secret generic fleet-nats-keys --from-file=nats-keys",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if create {
				made, err := natskeys.Create(keys)
				if err != nil {
					return fmt.Errorf("--keys: %w", err)
				}
				for _, name := range made {
					if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s: made\n", name); err != nil {
						return err
					}
				}
			}
			k, err := readKeys(keys)
			if err != nil {
				return err
			}
			text, err := json.MarshalIndent(natschart.Accounts(k), "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(printable.Exact(cmd.OutOrStdout()), "%s\n", text)
			return err
		},
	}
	cmd.Flags().StringVar(&keys, "keys", "", keysUsage)
	cmd.Flags().BoolVar(&create, "create", false, "make the keys that the directory lacks")
	_ = cmd.MarkFlagRequired("keys") // it fails for an unknown flag only
	return cmd
}
