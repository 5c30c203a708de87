package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
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
	out, err := exec.CommandContext(ctx, "/usr/bin/dpkg-deb", "--field", path).Output()
	if err != nil {
		return fmt.Errorf("reading what is in it: %w", err)
	}
	control := fields(string(out))
	if control["package"] != agentPackage || control["version"] != version {
		return fmt.Errorf("%w: in it is %q of version %q", errOtherPackage, control["package"], control["version"])
	}
	// What no index has is a file of root's.
	index, _ := exec.CommandContext(ctx, "/usr/bin/apt-cache", "show", agentPackage+"="+version).Output()
	return verifyIndex(control, string(index))
}

// ofIndices are fields that an index adds, or may change, and by which apt decides
// nothing about other packages.
var ofIndices = []string{"filename", "size", "md5sum", "sha1", "sha256", "sha512", "description", "description-md5", "section", "priority", "tag"}

// verifyIndex compares a package with what indices say of it: by one that lies apt
// would install what the distribution has, or remove it.
func verifyIndex(control map[string]string, index string) error {
	for entry := range strings.SplitSeq(index, "\n\n") {
		said := fields(entry)
		if said["filename"] == "" {
			continue // dpkg says so, of what is installed
		}
		for _, all := range []map[string]string{control, said} {
			for _, name := range slices.Sorted(maps.Keys(all)) {
				if !slices.Contains(ofIndices, name) && said[name] != control[name] {
					return fmt.Errorf("%w: its index says %s: %q, and it says %q", errOtherPackage, name, said[name], control[name])
				}
			}
		}
	}
	return nil
}

// fields are those of an entry of dpkg's, each in one line, by names in lower case,
// in which apt sees no difference. Of a field that is there twice it has both.
func fields(entry string) map[string]string {
	all, last := map[string]string{}, ""
	for line := range strings.Lines(entry) {
		value := line
		if line[0] != ' ' && line[0] != '\t' {
			last, value, _ = strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(last))
		}
		all[last] = strings.TrimSpace(all[last] + " " + strings.Join(strings.Fields(value), " "))
	}
	return all
}
