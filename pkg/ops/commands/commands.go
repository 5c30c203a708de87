// Package commands is what operators type to let devices in, revoke them, replace
// them and make tokens: the commands of package ops, which fleet-server and the
// plugin of kubectl share.
package commands

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/ops"
)

// Host is the program that has the commands.
type Host struct {
	ops.Program
	// Operator returns who acts.
	Operator func(ctx context.Context) (*ops.Operator, error)
	// Door returns how new devices reach the server.
	Door func(ctx context.Context) (ops.Door, error)
}

// say prints what became of a device.
func say(cmd *cobra.Command, name, done string) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, done)
	return err
}

// flagError makes an error about a value one about the flag that it came with.
func flagError(err error) error {
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	return nil
}
