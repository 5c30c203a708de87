package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
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
are signed by the key of the release that is installed, and of the version in
their names. apt calls this before it installs packages, since to apt a package
is what the gateway says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return verifyPackages(cmd.Context(), cmd.InOrStdin(), hostinstall.ReleaseKey)
		},
	}
}

// agentPackage is the one package that comes from a gateway.
const agentPackage = "fleet-agent"

// errOtherPackage: apt took a package for another than it is.
var errOtherPackage = errors.New("it is not what its name says; to install it all the same, use dpkg --install")

// verifyPackages looks at what apt downloaded as the agent, whatever is in it: of
// a gateway, apt takes nothing else.
func verifyPackages(ctx context.Context, names io.Reader, keyFile string) error {
	key, err := debsig.ReadKey(keyFile)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(names)
	for lines.Scan() {
		path := lines.Text()
		if !strings.HasPrefix(filepath.Base(path), agentPackage+"_") {
			continue
		}
		err := debsig.Verify(path, key)
		if err == nil {
			err = verifyName(ctx, path)
		}
		if err != nil {
			return fmt.Errorf("verifying %s: %w", path, err)
		}
	}
	return lines.Err()
}

// verifyName compares the version in a file's name, under which apt decided for
// the package, with what dpkg will find in it. An index that lies would have dpkg
// go back to an old agent, or install what else the release's key signed.
func verifyName(ctx context.Context, path string) error {
	_, version, _ := strings.Cut(filepath.Base(path), "_")
	version, _, _ = strings.Cut(version, "_")
	version, err := url.PathUnescape(version)
	if err != nil {
		return errOtherPackage
	}
	out, err := exec.CommandContext(ctx, "/usr/bin/dpkg-deb", "--field", path, "Package", "Version").Output()
	if err != nil {
		return fmt.Errorf("reading what is in it: %w", err)
	}
	if string(out) != "Package: "+agentPackage+"\nVersion: "+version+"\n" {
		return fmt.Errorf("%w: in it is %q", errOtherPackage, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", ", "))
	}
	return nil
}
