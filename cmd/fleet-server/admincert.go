package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/adminapi"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/rights"
)

type adminCertOptions struct {
	name, out string
	ttl       time.Duration
	// reply prints what the server answers, for the process that writes the files.
	reply bool
}

const (
	replyFlag = "reply"
	// maxReply bounds the answer in bytes.
	maxReply = 1 << 20
)

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
	f.BoolVar(&a.reply, replyFlag, false, "print the server's answer as JSON")
	_ = f.MarkHidden(replyFlag) // fails for unknown flags only
	return cmd
}

// ask asks the server. The files are for root to write, and the kubeconfig is for
// the server's account to read.
func (a *adminCertOptions) ask(cmd *cobra.Command, o *options) (adminapi.ReaderReply, error) {
	if account, other := rights.Of(o.kubeconfig()); other {
		return a.askAs(cmd, o, account)
	}
	c, err := o.admin()
	if err != nil {
		return adminapi.ReaderReply{}, err
	}
	reply, err := c.IssueReader(cmd.Context(), adminapi.ReaderRequest{Name: a.name, TTLSeconds: int64(a.ttl.Seconds())})
	if err != nil {
		return reply, fmt.Errorf("issuing a certificate: %w", err)
	}
	return reply, nil
}

func (a *adminCertOptions) askAs(cmd *cobra.Command, o *options, account rights.Account) (reply adminapi.ReaderReply, err error) {
	process := o.asOwner(cmd.Context(), account, "admin-cert", "--"+replyFlag, "--name", a.name, "--ttl", a.ttl.String())
	var out bytes.Buffer
	if err := rights.Run(cmd.Context(), process, rights.Streams{Out: &bounded{w: &out, left: maxReply}, Err: cmd.ErrOrStderr()}); err != nil {
		return reply, status(err)
	}
	if err := json.Unmarshal(out.Bytes(), &reply); err != nil {
		return reply, fmt.Errorf("issuing a certificate: %w", err)
	}
	return reply, nil
}

// bounded takes so many bytes and refuses the rest.
type bounded struct {
	w    io.Writer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("more than %d bytes", maxReply)
	}
	return b.w.Write(p)
}

func (a *adminCertOptions) issue(cmd *cobra.Command, o *options) error {
	if a.ttl < time.Second {
		return fmt.Errorf("--ttl %s: it must be at least 1s", a.ttl)
	}
	reply, err := a.ask(cmd, o)
	if err != nil {
		return err
	}
	if a.reply {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(reply)
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
