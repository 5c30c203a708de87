package commands

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/ops"
)

type tokenOptions struct {
	ttl         time.Duration
	uses        int
	labels      []string
	allowLabels []string
	preApprove  bool
	hardwareIDs []string
	replaces    string
}

// CreateToken returns the command that makes a token.
func (h Host) CreateToken() *cobra.Command {
	var t tokenOptions
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an enrollment token and print it",
		Long: "Create an enrollment token and print it, alone on a line. It is shown once: the server keeps\n" +
			"only a hash of its secret. Hand it to the device in a file, on standard input or in FLEET_TOKEN,\n" +
			"not on a command line, which other users can see.\n" +
			"Standard error says how to install a device with it from the gateway.",
		Example: "  " + h.Token + " create --pre-approve\n" +
			"  " + h.Token + " create --uses 100 --ttl 72h --label site=lausanne --allow-label rack",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.create(cmd, h) },
	}
	f := cmd.Flags()
	f.DurationVar(&t.ttl, "ttl", v1alpha1.DefaultTokenTTL, "how long the token works")
	f.IntVar(&t.uses, "uses", 1, "how many devices may enroll with it")
	f.StringArrayVar(&t.labels, "label", nil, "label KEY=VALUE of each device that enrolls with it; may be repeated")
	f.StringArrayVar(&t.allowLabels, "allow-label", nil, "label KEY that such a device may set for itself; may be repeated")
	f.BoolVar(&t.preApprove, "pre-approve", false, "let devices in at once, without "+h.Device+" approve")
	f.StringArrayVar(&t.hardwareIDs, "hardware-id", nil, "machine that may use it, as fleet-agent hardware-id prints its `HASH` there; may be repeated")
	return cmd
}

func (t *tokenOptions) create(cmd *cobra.Command, h Host) error {
	spec, err := t.spec()
	if err != nil {
		return err
	}
	door, err := h.Door(cmd.Context())
	if err != nil {
		return fmt.Errorf("creating the token: %w", err)
	}
	operator, err := h.Operator(cmd.Context())
	if err != nil {
		return err
	}
	token, err := operator.CreateToken(cmd.Context(), door.Root, spec)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), token.Encode()); err != nil {
		return err
	}
	return door.Explain(cmd.ErrOrStderr(), token) // so that standard output is the token alone
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
