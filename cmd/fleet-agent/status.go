package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func newStatus(f flags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running agent does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %.32q is unknown: use text or json", output)
			}
			cfg, _, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			if err := becomeAgent(cfg.StateDir); err != nil {
				return err
			}
			s, err := control.ReadStatus(cmd.Context(), cfg.StateDir)
			if err != nil {
				return err
			}
			addCrashes(&s, crashesDir(cfg))
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printStatus(cmd.OutOrStdout(), s, time.Now())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func printStatus(out io.Writer, s control.Status, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	line := func(format string, args ...any) { printable.Fprintf(w, format+"\n", args...) }
	line("Device:\t%s", s.Device)
	line("Agent:\t%s, up %s", s.AgentVersion, age(now, s.Started))
	if s.Connected {
		line("Connected:\tyes, to %s", s.Server)
	} else {
		line("Connected:\tno: %s", s.LastError)
		line("Last contact:\t%s", answered(now, s.LastContact))
	}
	if s.Standing != "" {
		line("Standing:\t%s", s.Standing)
	}
	if !s.CertificateExpires.IsZero() {
		line("Certificate:\t%s", certificate(s, now))
	}
	line("Manifest:\t%s, answered %s", manifest(s.Manifest), answered(now, s.LastSnapshot))
	for _, d := range s.Disks {
		line("Disk:\t%s of %s used on the file system of %s", mebibytes(d.Used), mebibytes(d.Size), d.Name)
	}
	for _, c := range s.Conditions {
		line("%s:\t%s (%s) %s", c.Type, c.Status, c.Reason, c.Message)
	}
	line("")
	line("NAMESPACE\tDEPLOYMENT\tPHASE\tSINCE\tERROR")
	for _, d := range s.Deployments {
		line("%s\t%s\t%s\t%s\t%s", d.Namespace, d.Name, d.Phase, age(now, d.LastEventAt), d.Error)
	}
	line("")
	line("NAMESPACE\tDEPLOYMENT\tSERVICE\tSTATE\tREADY\tRESTARTS\tCRASHES\tIMAGE")
	for _, v := range s.Services {
		restarts := 0
		if v.Container != nil {
			restarts = v.Container.Restarts
		}
		line("%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s", v.Namespace, v.DeploymentRef.Name, v.Service, serviceState(s, v), ready(v), restarts, crashed(v, now), images(v))
	}
	for i, p := range s.Pulls {
		if i == 0 {
			line("")
			line("NAMESPACE\tDEPLOYMENT\tPULLS\tFOR\tPROGRESS")
		}
		line("%s\t%s\t%s\t%s\t%s", p.Namespace, p.Name, p.Image, age(now, p.Since), progress(p))
	}
	return w.Flush()
}

// addCrashes adds to a status what is kept of crashes, and of an earlier agent's status
// the services.
func addCrashes(s *control.Status, dir string) {
	if len(s.Services) == 0 {
		s.Services = control.Join(nil, s.Deployments)
	}
	all, _ := crashes.Read(dir) // fleet-agent logs --previous says why not
	for i := range s.Services {
		v := &s.Services[i]
		for _, c := range all {
			if c.Name == v.Name {
				v.Crashes++
				v.LastCrash = later(v.LastCrash, c.Seen)
			}
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// progress says how much of an image came.
func progress(p control.Pull) string {
	if p.Total <= 0 {
		return "-"
	}
	const mb = 1e6
	return fmt.Sprintf("%.0f of %.0f MB", float64(p.Brought)/mb, float64(p.Total)/mb)
}

// serviceState says in a word what a service does.
func serviceState(s control.Status, v control.Service) string {
	pulled := func(p control.Pull) bool { return p.DeploymentRef == v.DeploymentRef && p.Image == v.WantedImage }
	switch {
	case v.Container == nil && slices.ContainsFunc(s.Pulls, pulled):
		return "pulling"
	case v.Container == nil:
		return "absent"
	case v.Unwanted:
		return v.Container.State + " (to leave)"
	}
	return v.Container.State
}

// ready says whether a service is ready, as far as the agent tells.
func ready(v control.Service) string {
	switch {
	case v.Container != nil && v.Container.Phase == "":
		return "-"
	case v.Container != nil && v.Container.Ready:
		return "yes"
	}
	return "no"
}

// images is the image that a service runs, and the one that it is to run if that is another.
func images(v control.Service) string {
	switch {
	case v.Container == nil:
		return v.WantedImage
	case v.WantedImage == "" || v.WantedImage == v.Container.Image:
		return v.Container.Image
	}
	return v.Container.Image + " (to be " + v.WantedImage + ")"
}

// crashed is how many crashes are kept of a service, and when the last one was.
func crashed(v control.Service, now time.Time) string {
	if v.Crashes == 0 {
		return "0"
	}
	return fmt.Sprintf("%d, last %s", v.Crashes, since(now, v.LastCrash))
}

func certificate(s control.Status, now time.Time) string {
	text := "until " + s.CertificateExpires.UTC().Format(time.DateTime) + " UTC"
	if now.After(s.CertificateExpires) {
		text = "expired at " + s.CertificateExpires.UTC().Format(time.DateTime) + " UTC"
	}
	if s.RenewalError != "" {
		text += "; the last renewal failed: " + s.RenewalError
	}
	return text
}

func manifest(v wire.Version) string {
	if v.IsZero() {
		return "none yet"
	}
	return v.String()
}

func answered(now, t time.Time) string {
	if t.IsZero() {
		return "never since the agent started"
	}
	return age(now, t) + " ago"
}

func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return max(now.Sub(t), 0).Round(time.Second).String()
}

func newConfirmEpoch(f flags) *cobra.Command {
	return &cobra.Command{
		Use:   "confirm-epoch",
		Short: "Remove what a restored server does not name any more",
		Long: `After a restore from a backup the server may not know of Deployments that run
on this device. The agent keeps them until this command confirms that the
restored server is right.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := f.load(cmd, true)
			if err != nil {
				return err
			}
			if err := becomeAgent(cfg.StateDir); err != nil {
				return err
			}
			c, err := control.ConfirmEpoch(cmd.Context(), cfg.StateDir)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "epoch %s confirmed, %d Deployments leave\n", c.Epoch, len(c.Leaving))
			for _, ref := range c.Leaving {
				fmt.Fprintln(out, ref)
			}
			return nil
		},
	}
}
