package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/release/rpmrepo"
)

// newRepodata returns the command gen-repodata, which writes the parts of an index
// for dnf into a directory. It is hidden: whoever makes a release calls it, and
// signs repomd.xml.
func newRepodata() *cobra.Command {
	var date int64
	cmd := &cobra.Command{
		Use:    "gen-repodata DIRECTORY PACKAGE...",
		Short:  "Write the index of rpm packages into a directory",
		Hidden: true,
		Args:   cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return writeRepodata(args[0], args[1:], time.Unix(date, 0))
		},
	}
	cmd.Flags().Int64Var(&date, "date", 0, "the time in the index, in seconds")
	return cmd
}

func writeRepodata(dir string, packages []string, date time.Time) error {
	index, err := rpmrepo.Make(packages, date)
	if err != nil {
		return fmt.Errorf("making the index: %w", err)
	}
	for name, data := range map[string][]byte{
		rpmrepo.RepomdName: index.Repomd, rpmrepo.PrimaryName: index.Primary, rpmrepo.FilelistsName: index.Filelists,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("writing the index: %w", err)
		}
	}
	return nil
}
