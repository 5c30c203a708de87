package plugin

import (
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/get"
	"k8s.io/kubectl/pkg/cmd/util"
)

// lister lists objects as kubectl get does.
type lister struct{ *get.GetOptions }

// newLister adds the flags of kubectl get to a command, but for those that choose kinds.
func newLister(cmd *cobra.Command) lister {
	o := get.NewGetOptions("kubectl", genericiooptions.IOStreams{})
	o.PrintFlags.AddFlags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.Watch, "watch", "w", false, "show changes, too, until the command is interrupted")
	f.BoolVar(&o.IgnoreNotFound, "ignore-not-found", false, "succeed when what is named does not exist")
	util.AddChunkSizeFlag(cmd, &o.ChunkSize)
	util.AddLabelSelectorFlagVar(cmd, &o.LabelSelector)
	return lister{o}
}

// list lists objects of one kind, all of them unless some are named.
func (l lister) list(f util.Factory, cmd *cobra.Command, resource string, names []string) error {
	l.IOStreams = streams(cmd)
	args := append([]string{resource}, names...)
	if err := l.Complete(f, cmd, args); err != nil {
		return err
	}
	if err := l.Validate(); err != nil {
		return err
	}
	return l.Run(f, args)
}

// human reports whether a table is asked for, and wide whether it has all columns.
func (l lister) human() (human, wide bool) {
	format, template := *l.PrintFlags.OutputFormat, *l.PrintFlags.TemplateFlags.TemplateArgument
	wide = format == "wide"
	return wide || format == "" && template == "", wide
}

func newDevices(c connection) *cobra.Command {
	var l lister
	var pending bool
	cmd := &cobra.Command{
		Use:   "devices [NAME...]",
		Short: "List the devices, or those that wait for approval",
		Long: "List the devices, or, with --pending, those that wait for approval.\n" +
			"The same as: kubectl get " + devices + ", and kubectl get " + requests,
		Example: "  kubectl fleet devices -o wide\n  kubectl fleet devices -l site=plant-1 --watch\n  kubectl fleet devices --pending",
		RunE: func(cmd *cobra.Command, names []string) error {
			resource := devices
			if pending {
				resource = requests
			}
			return l.list(c, cmd, resource, names)
		},
	}
	l = newLister(cmd)
	cmd.Flags().BoolVar(&pending, "pending", false, "list the devices that wait for approval")
	return cmd
}
