package main

import (
	"bufio"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/debsig"
	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

func newVerifyPackages() *cobra.Command {
	return &cobra.Command{
		Use:    "verify-packages",
		Short:  "Check who made the packages that apt is about to install",
		Hidden: true, // apt calls it
		Long: `Check that the packages of the agent, of those files that standard input names,
are signed by the key of the release that is installed. apt calls this before it
installs packages, since to apt a package is what the gateway says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return verifyPackages(cmd.InOrStdin(), hostinstall.ReleaseKey)
		},
	}
}

// verifyPackages looks at what apt downloaded as the agent, whatever is in it: of
// a gateway, apt takes nothing else.
func verifyPackages(names io.Reader, keyFile string) error {
	key, err := debsig.ReadKey(keyFile)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(names)
	for lines.Scan() {
		path := lines.Text()
		if !strings.HasPrefix(filepath.Base(path), "fleet-agent_") {
			continue
		}
		if err := debsig.Verify(path, key); err != nil {
			return fmt.Errorf("verifying %s: %w", path, err)
		}
	}
	return lines.Err()
}
