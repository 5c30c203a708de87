package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/adminapi"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

type adminCertOptions struct {
	name, out string
	ttl       time.Duration
}

func newAdminCert(o *options) *cobra.Command {
	var a adminCertOptions
	cmd := &cobra.Command{
		Use:   "admin-cert",
		Short: "Issue a certificate to read the message bus with the nats command",
		Long: "Issue a client certificate that may list, get and watch what is in the buckets of the message\n" +
			"bus, and change nothing. It opens neither the Kubernetes API nor anything of a device.",
		Example: "  fleet-server admin-cert\n  fleet-server admin-cert --name ann --ttl 8h --out ~/bus",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.issue(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&a.name, "name", "operator", "who will hold it; it is in the server's log")
	f.StringVar(&a.out, "out", ".", "directory for NAME.crt, NAME.key and ca.crt")
	f.DurationVar(&a.ttl, "ttl", 24*time.Hour, "how long it is valid, at most a year")
	return cmd
}

func (a *adminCertOptions) issue(cmd *cobra.Command, o *options) error {
	if a.ttl < time.Second {
		return fmt.Errorf("--ttl %s: it must be at least 1s", a.ttl)
	}
	c, err := o.admin()
	if err != nil {
		return err
	}
	reply, err := c.IssueReader(cmd.Context(), adminapi.ReaderRequest{Name: a.name, TTLSeconds: int64(a.ttl.Seconds())})
	if err != nil {
		return fmt.Errorf("issuing a certificate: %w", err)
	}
	if err := os.MkdirAll(a.out, 0o700); err != nil {
		return fmt.Errorf("creating %s: %w", a.out, err)
	}
	cert, key, ca := filepath.Join(a.out, a.name+".crt"), filepath.Join(a.out, a.name+".key"), filepath.Join(a.out, "ca.crt")
	for path, content := range map[string]string{cert: reply.Certificate, key: reply.Key, ca: reply.Roots} {
		if err := atomicfile.Write(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	w := cmd.OutOrStdout()
	nats := fmt.Sprintf("nats --tlsfirst --tlscert %s --tlskey %s --tlsca %s -s %s", cert, key, ca, reply.Server)
	fmt.Fprintf(w, "Valid for %s. Look at the bus:\n", a.ttl)
	for _, args := range []string{"kv ls", "kv ls desired-state", "kv watch device-heartbeat"} {
		fmt.Fprintf(w, "  %s %s\n", nats, args)
	}
	return nil
}
