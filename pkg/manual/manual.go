// Package manual lets a program write its own manual pages, so that they never
// differ from its commands and flags. The packages are built with them. Only
// programs may import it.
package manual

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"fleet.nationtech.io/fleet/pkg/version"
)

// Section is that of the manual: commands for administrators.
const Section = "8"

// NewCommand returns the command gen-man, which writes a page for each command
// of the program. It is hidden: whoever builds a package calls it.
func NewCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "gen-man DIRECTORY",
		Short:  "Write the manual pages into a directory",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(cmd *cobra.Command, args []string) error { return write(cmd.Root(), args[0]) },
	}
}

func write(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the manual: %w", err)
	}
	root.DisableAutoGenTag = true // it has the date of today
	built := version.BuiltAt()
	header := &doc.GenManHeader{Section: Section, Source: "fleet " + version.Version, Manual: "fleet", Date: &built}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return fmt.Errorf("writing the manual: %w", err)
	}
	return nil
}
