package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/rights"
)

// itself is this program, also where others may not enter its directory.
const itself = "/proc/self/exe"

// exitStatus ends the program with a status and without a message: a process
// that ran in its place said what there is to say.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// becomeOwner gives up root's rights for those of the owner of the data
// directory, who is the server's account: what a command writes there belongs to
// the server, and what lies there cannot lead root astray. Whatever needs
// root's rights has to be open by then.
func becomeOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("looking for the data directory: %w: has the server run here?", err)
	}
	owner, other := rights.Of(dir)
	if !other {
		return nil
	}
	if err := owner.Become(); err != nil {
		return fmt.Errorf("becoming the owner of %s: %w", dir, err)
	}
	return nil
}

// restConfig returns the connection that the kubeconfig describes. When another
// account can write that, this process takes the account's rights first, for
// good, and the kubeconfig may describe a connection and nothing else.
func (o *options) restConfig() (*rest.Config, error) {
	path := o.kubeconfig()
	owner, other := rights.Of(path)
	if other {
		if err := owner.Become(); err != nil {
			return nil, fmt.Errorf("reading the kubeconfig: %w", err)
		}
	}
	var config *rest.Config
	var err error
	if other || o.isServers(path) {
		config, err = client.ReadKubeconfig(path)
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", path)
	}
	if errors.Is(err, client.ErrKubeconfig) {
		return nil, fmt.Errorf("reading the kubeconfig: %w: %s", err, askForRestart)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w: %s", err, o.aboutUnreadable(path))
	}
	return config, nil
}

// isServers reports whether a kubeconfig is the one in the data directory.
func (o *options) isServers(path string) bool {
	return filepath.Clean(path) == filepath.Join(o.DataDir, embedserver.KubeconfigName)
}

// asOwner returns this program as a process of the account, with the same data
// directory. What the environment of root says does not reach it, but for taste
// and for the variables of kubectl.
func (o *options) asOwner(ctx context.Context, account rights.Account, args ...string) *exec.Cmd {
	cmd := account.Command(ctx, itself, args...)
	cmd.Dir = "" // names of files are relative to it
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if harmless(name) {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	// Not flags, which kubectl would take for its own. Nothing is cached: root's
	// cache is not the account's to write, and the data directory holds data.
	cmd.Env = append(cmd.Env, "HOME=/", "KUBECACHEDIR="+os.DevNull, program.Prefix+"DATA_DIR="+o.DataDir, program.Prefix+"CONFIG="+os.DevNull)
	return cmd
}

// harmless are variables that say how something is shown, and kubectl's.
func harmless(name string) bool {
	switch name {
	case "PATH", "TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ", "EDITOR", "VISUAL", "PAGER":
		return true
	}
	return strings.HasPrefix(name, "LC_") || strings.HasPrefix(name, "KUBE")
}

// status turns the end of a process into that of this one.
func status(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exitStatus(exit.ExitCode())
	}
	return err
}
