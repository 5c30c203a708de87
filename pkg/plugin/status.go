package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
)

// statusOptions are what kubectl fleet status is asked for.
type statusOptions struct {
	connection
	lister
}

func newStatus(c connection) *cobra.Command {
	o := &statusOptions{connection: c}
	cmd := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show how far Deployments are",
		Long: "Show how far Deployments are: on how many of the matched devices they run, failed, or are still to be\n" +
			"done, and what hinders them. With --watch, a terminal shows a table that follows what happens, until you\n" +
			"press Ctrl-C; elsewhere, each change is a line.",
		Example: "  kubectl fleet status\n  kubectl fleet status web --watch\n  kubectl fleet status -A -o wide",
		Args:    cobra.MaximumNArgs(1),
		RunE:    o.run,
	}
	o.lister = newLister(cmd)
	cmd.Flags().BoolVarP(&o.AllNamespaces, "all-namespaces", "A", false, "show those of all namespaces")
	return cmd
}

func (o *statusOptions) run(cmd *cobra.Command, names []string) error {
	human, wide := o.human()
	if !human {
		return o.list(o.connection, cmd, deployments, names)
	}
	if *o.PrintFlags.HumanReadableFlags.SortBy != "" {
		return errors.New("--sort-by is for other formats, such as -o json: the table is in the order of the names")
	}
	if len(names) > 0 && o.LabelSelector != "" {
		return errors.New("a NAME and --selector exclude each other")
	}
	namespace, _, err := o.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return err
	}
	if o.AllNamespaces {
		if len(names) > 0 {
			return errors.New("a NAME and --all-namespaces exclude each other: Deployments of one name in two namespaces have nothing to do with each other")
		}
		namespace = metav1.NamespaceAll
	}
	c, err := o.client()
	if err != nil {
		return err
	}
	v := &view{
		deployments: c.Deployments(namespace), options: metav1.ListOptions{LabelSelector: o.LabelSelector},
		print: o.printing(wide), namespaces: o.AllNamespaces, now: time.Now,
	}
	if len(names) > 0 {
		v.options.FieldSelector = fields.OneTermEqualSelector("metadata.name", names[0]).String()
		if _, err := v.deployments.Get(cmd.Context(), names[0], metav1.GetOptions{}); err != nil {
			if o.IgnoreNotFound {
				return client.IgnoreNotFound(err)
			}
			return err
		}
	}
	all, err := v.list(cmd.Context())
	if err != nil {
		return err
	}
	if o.Watch {
		return v.follow(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	if len(all) == 0 {
		return nothing(cmd.ErrOrStderr(), namespace)
	}
	return printers.NewTablePrinter(v.print).PrintObj(v.table(all), streams(cmd).Out)
}

// printing is how the flags of kubectl get have a table.
func (o *statusOptions) printing(wide bool) printers.PrintOptions {
	f := o.PrintFlags.HumanReadableFlags
	return printers.PrintOptions{
		Wide: wide, NoHeaders: *o.PrintFlags.NoHeaders, ShowLabels: *f.ShowLabels, ColumnLabels: *f.ColumnLabels,
		WithKind: *f.ShowKind, Kind: kind.GroupKind(),
	}
}

// nothing says what kubectl get says.
func nothing(w io.Writer, namespace string) error {
	where := ""
	if namespace != metav1.NamespaceAll {
		where = " in " + namespace + " namespace."
	}
	_, err := fmt.Fprintln(w, "No resources found"+where)
	return err
}

// view is what is shown of Deployments, and how.
type view struct {
	deployments *client.Deployments
	options     metav1.ListOptions
	print       printers.PrintOptions
	namespaces  bool
	now         func() time.Time
}

func (v *view) list(ctx context.Context) ([]*v1alpha1.Deployment, error) {
	list, err := v.deployments.List(ctx, v.options)
	if err != nil {
		return nil, err
	}
	all := make([]*v1alpha1.Deployment, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return all, nil
}

// table lists Deployments in the order of their names.
func (v *view) table(all []*v1alpha1.Deployment) *metav1.Table {
	slices.SortFunc(all, func(a, b *v1alpha1.Deployment) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	t := &metav1.Table{ColumnDefinitions: columns}
	for _, d := range all {
		t.Rows = append(t.Rows, metav1.TableRow{Cells: cells(d, v.now()), Object: runtime.RawExtension{Object: d}})
	}
	if !v.namespaces {
		t.ColumnDefinitions = columns[1:]
		for i := range t.Rows {
			t.Rows[i].Cells = t.Rows[i].Cells[1:]
		}
	}
	return t
}
