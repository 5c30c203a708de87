package commands

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// decision is what an operator says about a device that waits.
type decision struct {
	host        Host
	condition   string
	fingerprint string
}

// Approve returns the command that lets a device in.
func (h Host) Approve() *cobra.Command {
	d := decision{host: h, condition: v1alpha1.RequestApproved}
	cmd := &cobra.Command{
		Use:   "approve NAME",
		Short: "Let a device in that waits for approval",
		Long: "Let a device in that waits for approval. The command shows who waits. Compare the fingerprint with\n" +
			"the one that fleet-agent enroll shows on the device: anybody with a token can ask for any name.\n" +
			"On a terminal it asks you then; elsewhere pass what the device shows with --fingerprint. The key\n" +
			"that was shown is let in, and no other.\n" +
			"List those that wait with: " + h.Requests,
		Example: "  " + h.Device + " approve gateway-1f2e3d\n" +
			"  " + h.Device + " approve gateway-1f2e3d --fingerprint 9f86-d081-884c-7d65-9a2f-eaa0-c55a-d015",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return d.decide(cmd, bareName(args[0]), approves) },
	}
	cmd.Flags().StringVar(&d.fingerprint, "fingerprint", "", "what the device shows as its key's fingerprint; another key is not let in")
	return cmd
}

// Deny returns the command that refuses a device.
func (h Host) Deny() *cobra.Command {
	d := decision{host: h, condition: v1alpha1.RequestDenied}
	cmd := &cobra.Command{
		Use:   "deny NAME",
		Short: "Refuse a device that waits for approval",
		Long: "Refuse a device that waits for approval. Its name is closed to all others, too, for 30 days or until\n" +
			"you open it with: " + h.Device + " reopen NAME",
		Example: "  " + h.Device + " deny gateway-1f2e3d",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return d.decide(cmd, bareName(args[0]), func(*cobra.Command) error { return nil })
		},
	}
	cmd.Flags().StringVar(&d.fingerprint, "fingerprint", "", "the key's fingerprint; another key is not denied")
	return cmd
}

// Reopen returns the command that opens a name that a denial closed.
func (h Host) Reopen() *cobra.Command {
	return &cobra.Command{
		Use:   "reopen NAME",
		Short: "Open a name again that was closed by a denial",
		Long: "Open a name again that was closed by a denial: any device may ask for it then, the one that was\n" +
			"denied as well. To let that one in, approve it instead.",
		Example: "  " + h.Device + " reopen gateway-1f2e3d",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return h.reopen(cmd, bareName(args[0])) },
	}
}

// decide shows the device that waits under a name, and decides about its key
// once confirm, which is asked when no fingerprint was given, agrees.
func (d *decision) decide(cmd *cobra.Command, name string, confirm func(*cobra.Command) error) error {
	operator, err := d.host.Operator(cmd.Context())
	if err != nil {
		return err
	}
	shown, err := operator.Request(cmd.Context(), name)
	if err != nil {
		return err
	}
	if err := showRequest(cmd.OutOrStdout(), shown, time.Now()); err != nil {
		return err
	}
	if d.fingerprint != "" {
		confirm = func(*cobra.Command) error { return flagError(operator.CheckFingerprint(shown, d.fingerprint)) }
	}
	if err := confirm(cmd); err != nil {
		return err
	}
	write := operator.Approve
	if d.condition == v1alpha1.RequestDenied {
		write = operator.Deny
	}
	if err := write(cmd.Context(), shown); err != nil {
		return err
	}
	return say(cmd, name, d.condition)
}

// approves asks the person at a terminal.
func approves(cmd *cobra.Command) error {
	if in, ok := cmd.InOrStdin().(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return errors.New("nothing is approved yet: look at the fingerprint on the device, and repeat the command with --fingerprint and what the device shows")
	}
	if _, err := fmt.Fprint(cmd.OutOrStdout(), "Does the device show this fingerprint? Type yes to let it in: "); err != nil {
		return err
	}
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // no answer is no
		answers <- answer
	}()
	select {
	case answer := <-answers:
		if strings.TrimSpace(answer) != "yes" {
			return errors.New("nothing is approved")
		}
		return nil
	case <-cmd.Context().Done(): // what reads ends with the process
		return cmd.Context().Err()
	}
}

// showRequest prints who waits. What the device claims may be anything.
func showRequest(out io.Writer, r *v1alpha1.EnrollmentRequest, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", name, value)
		}
	}
	line("Device", r.Name)
	line("Fingerprint", wire.ShowFingerprint(r.Spec.KeyFingerprint))
	line("Hardware id", claimed(r.Spec.HardwareID))
	line("Address", claimed(r.Spec.Address))
	if i := r.Spec.Inventory; i != nil {
		line("Host name", claimed(i.Hostname))
	}
	asked := r.CreationTimestamp.UTC()
	line("Asked", fmt.Sprintf("%s UTC, %s ago", asked.Format(time.DateTime), now.Sub(asked).Round(time.Second)))
	line("Token", claimed(r.Spec.Token))
	if r.Spec.CSR == "" {
		line("Note", "it has a certificate of this fleet, but this server does not know its key, as after the restore of a backup")
	}
	if r.Spec.Replaces {
		line("Note", "it takes the place of the machine that has the name now, whose key is refused then")
	}
	if r.IsDenied() {
		line("Note", "it was denied")
	}
	return w.Flush()
}

// claimed quotes what would do something to a terminal.
func claimed(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

func (h Host) reopen(cmd *cobra.Command, name string) error {
	operator, err := h.Operator(cmd.Context())
	if err != nil {
		return err
	}
	if err := operator.Reopen(cmd.Context(), name); err != nil {
		return err
	}
	return say(cmd, name, "open")
}
