package main

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const fieldManager = "fleet-server-cli"

func newToken(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Create, list and revoke the tokens that devices enroll with"}
	cmd.AddCommand(newTokenCreate(o), newTokenList(o), newTokenRevoke(o))
	return cmd
}

func newTokenList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the enrollment tokens",
		Long:  "List the enrollment tokens. The same as: fleet-server kubectl get enrollmenttokens",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.kubectl(cmd, "get", "enrollmenttokens") },
	}
}

func newTokenRevoke(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID...",
		Short:   "Remove enrollment tokens: nobody can enroll with them any more",
		Long:    "Remove enrollment tokens: nobody can enroll with them any more. Devices that did stay.",
		Example: "  fleet-server token revoke hbq3x7ka",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.kubectl(cmd, append([]string{"delete", "enrollmenttokens"}, args...)...)
		},
	}
}

type tokenOptions struct {
	ttl         time.Duration
	uses        int
	labels      []string
	allowLabels []string
	preApprove  bool
	hardwareIDs []string
	replaces    string
}

func newTokenCreate(o *options) *cobra.Command {
	var t tokenOptions
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an enrollment token and print it",
		Long: "Create an enrollment token and print it, alone on a line. It is shown once: the server keeps\n" +
			"only a hash of its secret. Hand it to the device in a file, on standard input or in FLEET_TOKEN,\n" +
			"not on a command line, which other users can see.\n" +
			"Standard error says how to install a device with it from this gateway.",
		Example: "  fleet-server token create --pre-approve\n" +
			"  fleet-server token create --uses 100 --ttl 72h --label site=lausanne --allow-label rack",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.create(cmd, o) },
	}
	f := cmd.Flags()
	f.DurationVar(&t.ttl, "ttl", v1alpha1.DefaultTokenTTL, "how long the token works")
	f.IntVar(&t.uses, "uses", 1, "how many devices may enroll with it")
	f.StringArrayVar(&t.labels, "label", nil, "label KEY=VALUE of each device that enrolls with it; may be repeated")
	f.StringArrayVar(&t.allowLabels, "allow-label", nil, "label KEY that such a device may set for itself; may be repeated")
	f.BoolVar(&t.preApprove, "pre-approve", false, "let devices in at once, without fleet-server device approve")
	f.StringArrayVar(&t.hardwareIDs, "hardware-id", nil, "machine that may use it, as fleet-agent hardware-id prints its `HASH` there; may be repeated")
	return cmd
}

func (t *tokenOptions) create(cmd *cobra.Command, o *options) error {
	spec, err := t.spec()
	if err != nil {
		return err
	}
	if err := o.clockIsRight(cmd.Context()); err != nil {
		return fmt.Errorf("creating the token: %w", err)
	}
	operator, err := o.operator()
	if err != nil {
		return err
	}
	token, err := operator.CreateToken(cmd.Context(), spec)
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintln(cmd.OutOrStdout(), token.Encode()); err != nil {
		return err
	}
	return o.explain(cmd, token)
}

// explain says, beside the token, how a device is installed with it. That goes
// to standard error, so that standard output is the token alone.
func (o *options) explain(cmd *cobra.Command, token wire.Token) error {
	c, err := o.admin()
	if err != nil {
		return err
	}
	g, err := c.Gateway(cmd.Context(), struct{}{})
	if err != nil {
		return nil //nolint:nilerr // an older server; the token works all the same
	}
	w := cmd.ErrOrStderr()
	if !g.Installer {
		_, err = fmt.Fprintf(w, "\nOn a device with fleet-agent: fleet-agent enroll --server %s\nTo install devices from here, import a release: fleet-server bundle import FILE\n", g.URL)
		return err
	}
	_, err = fmt.Fprintf(w, "\nOn the device, as root:\n  curl -fsS -k --pinnedpubkey '%s' %s%s | FLEET_TOKEN='%s' sh\n", g.Pin, g.URL, release.PathInstaller, token.Encode())
	return err
}

// spec is what the flags ask for.
func (t *tokenOptions) spec() (ops.TokenSpec, error) {
	spec := ops.TokenSpec{
		TTL: t.ttl, Uses: t.uses, PreApproved: t.preApprove, Labels: map[string]string{}, AllowedLabelKeys: t.allowLabels,
		HardwareIDs: t.hardwareIDs, Replaces: t.replaces,
	}
	for _, l := range t.labels {
		key, value, found := strings.Cut(l, "=")
		if !found {
			return spec, fmt.Errorf("--label %q: it must have the form KEY=VALUE", l)
		}
		if _, again := spec.Labels[key]; again {
			return spec, fmt.Errorf("--label %q: the key is there twice", l)
		}
		spec.Labels[key] = value
	}
	return spec, flagError(spec.Check())
}

// flagError makes an error about a value one about the flag that it came with.
func flagError(err error) error {
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	return nil
}

// operator acts with the kubeconfig in $KUBECONFIG or the data directory.
func (o *options) operator() (*ops.Operator, error) {
	c, root, err := o.client()
	return &ops.Operator{Client: c, Manager: fieldManager, Root: root}, err
}

// client returns a client of the server, by the kubeconfig in $KUBECONFIG or
// the data directory, and the hash of the server's newest root key.
func (o *options) client() (*client.Client, [sha256.Size]byte, error) {
	config, err := o.restConfig()
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	root, err := pki.DecodeCert(config.CAData)
	if err != nil {
		return nil, [sha256.Size]byte{}, fmt.Errorf("reading the certificate authority in %s: %w", o.kubeconfig(), err)
	}
	c, err := client.New(config)
	return c, sha256.Sum256(root.RawSubjectPublicKeyInfo), err
}
