// Package plugin is `kubectl fleet`: it runs containers on devices, shows what became
// of them, and does what package ops does, against any API server that serves the
// definitions of fleet. Its flags, its output and its errors are those of kubectl.
//
// cmd/kubectl-fleet is the plugin as a program of its own, for Linux, macOS and Windows,
// so that nothing here may need Linux. fleet-server adds it to the kubectl inside it.
package plugin

import (
	"context"
	"io"
	"math"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/logs"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	"k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/ops"
	"fleet.nationtech.io/fleet/pkg/ops/commands"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/usage"
	"fleet.nationtech.io/fleet/pkg/version"
)

// manager names the plugin in managedFields.
const manager = "kubectl-fleet"

// Kinds as kubectl takes them: group and all, so that Kubernetes' own Deployments are
// never meant.
const (
	deployments = "deployments." + v1alpha1.GroupName
	devices     = "devices." + v1alpha1.GroupName
	requests    = "enrollmentrequests." + v1alpha1.GroupName
)

// program is how its users call the commands of the plugin.
var program = ops.Program{
	Device: "kubectl fleet", Token: "kubectl fleet token", Devices: "kubectl fleet devices",
	Requests: "kubectl fleet devices --pending", Kubectl: "kubectl",
}

// New returns the command fleet, which reaches the API as flags say.
func New(flags genericclioptions.RESTClientGetter) *cobra.Command {
	c := connection{util.NewFactory(flags)}
	h := commands.Host{Program: program, Operator: c.operator, Door: c.door}
	cmd := group(&cobra.Command{
		Use:   "fleet",
		Short: "Run containers on a fleet of devices",
		Long: "Run containers on a fleet of devices, see what became of them, and let devices in.\n" +
			"It works with any API server that serves the kinds of fleet: the one in fleet-server, or Kubernetes.",
	})
	token := group(&cobra.Command{Use: "token", Short: "Create the tokens that devices enroll with"})
	token.AddCommand(h.CreateToken())
	cmd.AddCommand(
		newRun(c), c.named(newStatus(c), deployments), c.named(newDevices(c), devices), token,
		c.named(h.Approve(), requests), c.named(h.Deny(), requests), c.named(h.Reopen(), requests),
		c.named(h.Revoke(), devices), c.named(h.Replace(), devices), c.named(h.Accept(), devices),
	)
	quiet(cmd)
	usage.Explain(cmd)
	return cmd
}

// group makes a command of others refuse what is none of them.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// quiet leaves it to the program to say errors.
func quiet(cmd *cobra.Command) {
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	for _, sub := range cmd.Commands() {
		quiet(sub)
	}
}

// NewProgram returns the plugin as a program of its own, with the flags by which all
// commands of kubectl reach the API.
func NewProgram() *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	cmd := New(flags)
	cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl fleet"}
	cmd.Version = version.String()
	cmd.CompletionOptions.DisableDefaultCmd = true // kubectl completes, by way of kubectl_complete-fleet
	cmd.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		rest.SetDefaultWarningHandler(rest.NewWarningWriter(cmd.ErrOrStderr(), rest.WarningWriterOptions{Deduplicate: true}))
	}
	flags.AddFlags(cmd.PersistentFlags())
	logs.AddFlags(cmd.PersistentFlags()) // -v
	f := util.NewFactory(flags)
	completion.SetFactoryForCompletion(f)
	for name, values := range map[string]func(toComplete string) []string{
		"namespace": func(toComplete string) []string { return completion.CompGetResource(f, "namespaces", toComplete) },
		"context":   completion.ListContextsInConfig,
		"cluster":   completion.ListClustersInConfig,
		"user":      completion.ListUsersInConfig,
	} {
		complete := func(_ *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return values(toComplete), cobra.ShellCompDirectiveNoFileComp
		}
		_ = cmd.RegisterFlagCompletionFunc(name, complete) // fails for unknown flags only
	}
	return cmd
}

// SpeakThrough leads to a writer what kubectl and its libraries say by themselves:
// why kubectl gives up, as explain has it, and the log of klog. Both go to standard
// error otherwise, and have words of whatever server it asks.
func SpeakThrough(w io.Writer, explain func(string) string) {
	// klog decides what is to be said, and the logger says all of it.
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(w), textlogger.Verbosity(math.MaxInt32))))
	util.BehaviorOnFatal(func(msg string, code int) {
		if msg = strings.TrimSpace(msg); msg != "" {
			_, _ = io.WriteString(w, explain(msg)+"\n") // to a person who may be gone
		}
		os.Exit(code)
	})
}

// connection reaches an API server.
type connection struct{ util.Factory }

func (c connection) operator(context.Context) (*ops.Operator, error) {
	cl, err := c.client()
	return &ops.Operator{Client: cl, Manager: manager, Program: program}, err
}

func (c connection) client() (*client.Client, error) {
	config, err := c.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return client.New(config)
}

func (c connection) door(ctx context.Context) (ops.Door, error) {
	kube, err := c.KubernetesClientSet()
	if err != nil {
		return ops.Door{}, err
	}
	return ops.ReadDoor(ctx, kube)
}

// named completes the first argument of a command with names of objects.
func (c connection) named(cmd *cobra.Command, resource string) *cobra.Command {
	cmd.ValidArgsFunction = completion.ResourceNameCompletionFunc(c, resource)
	return cmd
}

// streams are those of a command. What programs read, such as YAML, stays as it is.
func streams(cmd *cobra.Command) genericiooptions.IOStreams {
	return genericiooptions.IOStreams{In: cmd.InOrStdin(), Out: printable.Exact(cmd.OutOrStdout()), ErrOut: cmd.ErrOrStderr()}
}
