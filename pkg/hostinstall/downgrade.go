package hostinstall

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"fleet.nationtech.io/fleet/pkg/version"
)

// ErrDowngrade: what is to be installed is older than what is. It wraps
// ErrRefused.
var ErrDowngrade = fmt.Errorf("to go back to an older version, say --allow-downgrade: %w", ErrRefused)

// refuseOlder refuses a version that comes before the installed one. Releases are
// signed without an end, so that an old one would bring old faults back unnoticed.
// The way back from an upgrade does not ask.
func (o *Options) refuseOlder(next, installed string) error {
	if o.AllowDowngrade || !version.Older(next, installed) {
		return nil
	}
	return fmt.Errorf("version %s is older than %s, which is installed: %w", next, installed, ErrDowngrade)
}

// packageVersions asks the package manager for the versions of the package in a
// file and of the installed one. What it cannot tell is empty.
func (in *Installer) packageVersions(ctx context.Context, path string) (next, installed string) {
	name := in.Product.Name
	of, is := []string{"dpkg-deb", "--field", path, "Version"}, []string{"dpkg-query", "--show", "--showformat=${Version}", name}
	if filepath.Ext(path) == ".rpm" {
		of = []string{"rpm", "--query", "--queryformat=%{VERSION}", "--package", path}
		is = []string{"rpm", "--query", "--queryformat=%{VERSION}", name}
	}
	return in.ask(ctx, of), in.ask(ctx, is)
}

// ask is a query whose failure the package manager will tell of when it installs.
func (in *Installer) ask(ctx context.Context, query []string) string {
	out, err := in.Host.Query(ctx, query...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}
