package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
)

// added are commands that kubectl has once it runs.
var added = []string{"help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}

// execPlugin runs, in the place of this program, the plugin of kubectl on PATH that
// arguments name. It returns nil when there is none, and for commands that kubectl has
// itself.
func (o *options) execPlugin(c *cobra.Command, args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || slices.Contains(added, args[0]) {
		return nil
	}
	if _, _, err := c.Find(args); err == nil {
		return nil
	}
	handler := pluginHandler{kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes), o.kubeconfig()}
	if err := kubectl.HandlePluginCommand(handler, args, 1); err != nil {
		return fmt.Errorf("running a plugin of kubectl: %w", err)
	}
	return nil
}

// pluginHandler gives plugins the kubeconfig of the server.
type pluginHandler struct {
	kubectl.PluginHandler
	kubeconfig string
}

// Execute implements kubectl.PluginHandler.
func (h pluginHandler) Execute(path string, args, env []string) error {
	env = slices.DeleteFunc(env, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name == "KUBECONFIG" || name == "KUBECTL_PATH" // this program is no kubectl
	})
	return h.PluginHandler.Execute(path, args, append(env, "KUBECONFIG="+h.kubeconfig))
}
