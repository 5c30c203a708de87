package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/logs"
	kubectl "k8s.io/kubectl/pkg/cmd"

	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	_ "fleet.nationtech.io/fleet/pkg/english" // before kubectl is initialised
	"fleet.nationtech.io/fleet/pkg/plugin"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/rights"
)

// What to do about a kubeconfig that cannot be read, and about one of the server
// that is not as the server wrote it.
const (
	askForServer  = "is the server running, and is this its user?"
	askToUnset    = "$KUBECONFIG names it: unset KUBECONFIG to use the server's own"
	askForRestart = "systemctl restart fleet-server writes that of the server again"
)

// newKubectl embeds kubectl, with the administrator's kubeconfig as its
// default. What follows the word kubectl belongs to kubectl; flags of
// fleet-server come before it.
func newKubectl(o *options) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARGS...]",
		Short:              "Run kubectl with the server's own kubeconfig",
		Example:            "  fleet-server kubectl get devices\n  fleet-server --data-dir ~/fleet kubectl apply -f hello.yaml",
		DisableFlagParsing: true,
		ValidArgsFunction:  o.completeKubectl,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := o.takeDataDir(args)
			if err != nil {
				return err
			}
			// A file gets every byte of an object; a person sees all of its characters.
			cmd.SetOut(printable.Exact(cmd.OutOrStdout()))
			return o.kubectl(cmd, args...)
		},
	}
}

// kubectl runs kubectl in this process, unless another account can write its
// kubeconfig and this process is root's.
func (o *options) kubectl(cmd *cobra.Command, args ...string) error {
	path := cmp.Or(kubeconfigFlag(args), o.kubeconfig())
	if account, other := rights.Of(path); other {
		return o.kubectlFor(cmd, account, args)
	}
	if err := o.checkServers(path); err != nil {
		return err
	}
	_, missing := os.Stat(path)
	about := func(msg string) string {
		if missing != nil && strings.Contains(msg, path) { // much of kubectl needs no server
			return msg + ": " + o.aboutUnreadable(path)
		}
		return msg
	}
	plugin.SpeakThrough(cmd.ErrOrStderr(), about)
	c := o.newKubectl(genericiooptions.IOStreams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), ErrOut: cmd.ErrOrStderr()}, args)
	if err := o.execPlugin(c, args); err != nil {
		return err
	}
	err := c.ExecuteContext(cmd.Context())
	if err != nil && missing != nil {
		return errors.New(about(err.Error()))
	}
	return err
}

// aboutUnreadable says what to do about a kubeconfig that is missing or broken.
func (o *options) aboutUnreadable(path string) string {
	if path == o.kubeconfig() && !o.isServers(path) {
		return askToUnset
	}
	if !strings.Contains(path, defaultConfig().DataDir) {
		return askForServer
	}
	return askForServer + " for a server in another directory, give --data-dir, or set KUBECONFIG"
}

// checkServers refuses a kubeconfig of the server that was changed. What is
// missing or cannot be read is kubectl's to judge, and a file of the operator
// may say what they like.
func (o *options) checkServers(path string) error {
	if !o.isServers(path) {
		return nil
	}
	if _, err := client.ReadKubeconfig(path); errors.Is(err, client.ErrKubeconfig) || errors.Is(err, rights.ErrNotRegular) {
		return fmt.Errorf("reading the kubeconfig: %w: %s", err, askForRestart)
	}
	return nil
}

func (o *options) newKubectl(streams genericiooptions.IOStreams, args []string) *cobra.Command {
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	*flags.KubeConfig = o.kubeconfig()
	c := kubectl.NewKubectlCommand(kubectl.KubectlOptions{
		ConfigFlags: flags,
		Arguments:   append([]string{"kubectl"}, args...),
		IOStreams:   streams,
	})
	c.AddCommand(plugin.New(flags))
	logs.AddFlags(c.PersistentFlags()) // -v, which kubectl's own main adds
	c.SilenceErrors = true             // main says them
	c.SetArgs(args)
	c.SetIn(streams.In)
	c.SetOut(streams.Out)
	c.SetErr(streams.ErrOut)
	return c
}

// completeKubectl asks kubectl what can come next.
func (o *options) completeKubectl(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if err := o.load(cmd.Flags()); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	args, err := o.takeDataDir(args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	out, err := o.askKubectl(cmd, args, toComplete)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	// A candidate a line, and on the last one a colon and the directive.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := len(lines) - 1
	directive, err := strconv.Atoi(strings.TrimPrefix(lines[last], ":"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return lines[:last], cobra.ShellCompDirective(directive)
}

func (o *options) askKubectl(cmd *cobra.Command, args []string, toComplete string) ([]byte, error) {
	path := cmp.Or(kubeconfigFlag(args), o.kubeconfig())
	if account, other := rights.Of(path); other {
		return o.completeFor(cmd, account, args, toComplete)
	}
	if err := o.checkServers(path); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	c := o.newKubectl(genericiooptions.IOStreams{In: cmd.InOrStdin(), Out: &out, ErrOut: io.Discard}, append(append([]string{cobra.ShellCompRequestCmd}, args...), toComplete))
	err := c.ExecuteContext(cmd.Context())
	return out.Bytes(), err
}

// takeDataDir accepts --data-dir directly behind the word kubectl as well,
// where people put it.
func (o *options) takeDataDir(args []string) ([]string, error) {
	const flag = "--data-dir"
	if len(args) == 0 {
		return args, nil
	}
	if value, ok := strings.CutPrefix(args[0], flag+"="); ok {
		o.DataDir = value
		return args[1:], o.validate()
	}
	if args[0] == flag && len(args) > 1 {
		o.DataDir = args[1]
		return args[2:], o.validate()
	}
	return args, nil
}

// kubeconfig is $KUBECONFIG when it is set, else the administrator's.
func (o *options) kubeconfig() string {
	if path := o.env.Get("KUBECONFIG"); path != "" && !strings.ContainsRune(path, os.PathListSeparator) {
		return path
	}
	return filepath.Join(o.DataDir, embedserver.KubeconfigName)
}
