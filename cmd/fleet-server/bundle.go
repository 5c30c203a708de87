package main

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/clock"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/registry"
	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/version"
)

func newBundle(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "bundle", Short: "Hold a release, so that devices are installed from this gateway"}
	cmd.AddCommand(newBundleImport(o), newBundleShow(o))
	return cmd
}

type importOptions struct {
	keyFile        string
	caFile         string
	allowUnsigned  bool
	allowDowngrade bool
}

func newBundleImport(o *options) *cobra.Command {
	var i importOptions
	cmd := &cobra.Command{
		Use:   "import FILE|DIRECTORY|URL",
		Short: "Verify a release and serve it to devices",
		Long: "Verify a release, and serve it to devices: the installer, an apt and a dnf repository, and its\n" +
			"container images. A running server serves it at once, instead of the release before. The release is\n" +
			"a bundle, a directory, or the address of a directory on a mirror; from a mirror, what devices need\n" +
			"is downloaded. The release must be signed by the key that this program was built with, or by the one\n" +
			"that --release-key names, and not be older than the one that is served, in version or date. Proxies\n" +
			"are those of the environment (https_proxy, no_proxy).",
		Example: "  fleet-server bundle import fleet-bundle.tar\n" +
			"  fleet-server bundle import --release-key release.pub dist\n" +
			"  fleet-server bundle import --release-key release.pub https://mirror.example.com/1.2.0",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return i.run(cmd, o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&i.keyFile, "release-key", "", "public key (PEM) that the release must be signed with, instead of the one built in")
	f.StringVar(&i.caFile, "ca-file", "", "authorities (PEM) of the mirror or of a proxy, instead of the system's")
	f.BoolVar(&i.allowUnsigned, "allow-unsigned", false, "trust the file as it is: check its checksums, but not who made it")
	f.BoolVar(&i.allowDowngrade, "allow-downgrade", false, "take a release, or images, older than what is served")
	return cmd
}

func (i *importOptions) run(cmd *cobra.Command, o *options, path string) error {
	key, err := i.key()
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	source, err := i.source(path, w)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // it was only read
	if err := becomeOwner(o.DataDir); err != nil {
		return err
	}
	images, believed := registry.Open(o.DataDir), embedserver.OpenClock(o.DataDir, clock.System)
	served, err := release.Open(o.DataDir).Import(cmd.Context(), release.Import{
		Source: source, Key: key, AllowDowngrade: i.allowDowngrade, Installed: version.Version, Now: believed.Now, Sane: believed.Sane,
		Images: func(path string) error {
			names, err := pushArchive(images, path)
			for _, name := range names {
				fmt.Fprintf(w, "image %s\n", name)
			}
			return err
		},
		Notice: func(line string) { fmt.Fprintln(w, line) },
	})
	if err != nil {
		return fmt.Errorf("importing %s: %w", path, err)
	}
	_, err = fmt.Fprintf(w, "release %s is served from now on\n", served)
	return err
}

// source opens what is to be imported.
func (i *importOptions) source(path string, progress io.Writer) (*release.Source, error) {
	address, err := url.Parse(path)
	switch {
	case err != nil: // it is a path
	case address.Scheme == "http", address.Scheme == "https":
		if i.allowUnsigned {
			return nil, errors.New("--allow-unsigned is for files: name the key of the mirror's releases with --release-key")
		}
		return release.OpenMirror(release.Mirror{URL: address, CAFile: i.caFile, Progress: progress})
	case address.Scheme == "file":
		path = address.Path
	}
	return release.OpenSource(path)
}

// key is the key that the release must be signed with, nil for none.
func (i *importOptions) key() (*ecdsa.PublicKey, error) {
	if i.allowUnsigned {
		if i.keyFile != "" {
			return nil, errors.New("--release-key and --allow-unsigned exclude each other")
		}
		return nil, nil
	}
	if i.keyFile != "" {
		return release.ReadKey(i.keyFile)
	}
	key, err := release.CompiledKey()
	if err == nil && key == nil {
		err = release.ErrNoKey
	}
	return key, err
}

func newBundleShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the version of the release that is served",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := becomeOwner(o.DataDir); err != nil {
				return err
			}
			version, err := release.Open(o.DataDir).Version()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), version)
			return err
		},
	}
}

func pushArchive(images *registry.Store, path string) ([]registry.Name, error) {
	archive, err := registry.OpenArchive(path)
	if err != nil {
		return nil, err
	}
	defer archive.Close() //nolint:errcheck // it was only read
	return images.Push(archive, registry.Name{})
}
