package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/registry"
)

func newImage(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Hold container images, so that devices pull them from this gateway"}
	cmd.AddCommand(newImagePush(o), newImageList(o), newImageRemove(o), newImageGC(o))
	return cmd
}

type pushOptions struct{ name, platform string }

func newImagePush(o *options) *cobra.Command {
	var p pushOptions
	cmd := &cobra.Command{
		Use:   "push FILE|IMAGE...",
		Short: "Store container images, from files or from another registry",
		Long: "Store container images: from files that podman save or docker save wrote (OCI archives and docker\n" +
			"archives), or from another registry. A running server serves them at once, as GATEWAY:8443/NAME:TAG,\n" +
			"where NAME is what stands behind the registry in the name that the image had.",
		Example: "  podman save --format oci-archive -o app.tar registry.example.com/team/app:1\n" +
			"  fleet-server image push app.tar                     # GATEWAY:8443/team/app:1\n" +
			"  fleet-server image push --name web:1 app.tar        # GATEWAY:8443/web:1\n" +
			"  fleet-server image push --platform linux/arm64 docker.io/library/nginx:1.29",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.run(cmd, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&p.name, "name", "", "NAME:TAG of the image on this gateway, instead of the one that it has")
	f.StringVar(&p.platform, "platform", "", "OS/ARCH[/VARIANT] to fetch from another registry; unset, an image for several is stored for all")
	return cmd
}

func (p *pushOptions) run(cmd *cobra.Command, o *options, args []string) error {
	name, platform, err := p.check(len(args))
	if err != nil {
		return err
	}
	var sources []registry.Source
	for _, arg := range args {
		source, err := openImage(cmd, arg, platform)
		if err != nil {
			return err
		}
		if c, ok := source.(io.Closer); ok {
			defer c.Close() //nolint:errcheck // it was only read
		}
		sources = append(sources, source)
	}
	if err := becomeOwner(o.DataDir); err != nil {
		return err
	}
	for i, source := range sources {
		names, err := registry.Open(o.DataDir).Push(source, name)
		if err != nil {
			return fmt.Errorf("storing %s: %w", args[i], err)
		}
		for _, n := range names {
			fmt.Fprintln(cmd.OutOrStdout(), n)
		}
	}
	return nil
}

func (p *pushOptions) check(sources int) (name registry.Name, platform *v1.Platform, err error) {
	if p.name != "" {
		if sources > 1 {
			return name, nil, errors.New("--name needs a single image")
		}
		if name, err = registry.ParseName(p.name); err != nil {
			return name, nil, fmt.Errorf("--name: %w", err)
		}
	}
	if p.platform != "" {
		platform, err = v1.ParsePlatform(p.platform)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return name, nil, fmt.Errorf("--platform %q: it must have the form OS/ARCH[/VARIANT]", p.platform)
		}
	}
	return name, platform, nil
}

// archiveEndings are those of files that hold an image.
var archiveEndings = []string{".tar", ".tar.gz", ".tgz", ".oci"}

// openImage takes what exists as a file, or is called like one, for a file, and all else for
// the name of an image.
func openImage(cmd *cobra.Command, arg string, platform *v1.Platform) (registry.Source, error) {
	file := strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") ||
		slices.ContainsFunc(archiveEndings, func(ending string) bool { return strings.HasSuffix(arg, ending) })
	if _, err := os.Stat(arg); errors.Is(err, fs.ErrNotExist) && !file {
		return registry.OpenRemote(cmd.Context(), arg, platform)
	}
	return registry.OpenArchive(arg)
}

func newImageList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the images that devices can pull",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := becomeOwner(o.DataDir); err != nil {
				return err
			}
			images, err := registry.Open(o.DataDir).List()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tDIGEST\tPLATFORMS\tMIB")
			for _, i := range images {
				printable.Fprintf(w, "%s\t%s\t%s\t%.1f\n", i.Name, i.Digest, strings.Join(i.Platforms, ","), float64(i.Size)/(1<<20))
			}
			return w.Flush()
		},
	}
}

func newImageRemove(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME:TAG...",
		Short:   "Forget images; fleet-server image gc then frees what they took",
		Example: "  fleet-server image remove team/app:1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var names []registry.Name
			for _, arg := range args {
				name, err := registry.ParseName(arg)
				if err != nil {
					return err
				}
				names = append(names, name)
			}
			if err := becomeOwner(o.DataDir); err != nil {
				return err
			}
			return registry.Open(o.DataDir).Remove(names...)
		},
	}
}

func newImageGC(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "gc",
		Short: "Remove what no image needs any more",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := becomeOwner(o.DataDir); err != nil {
				return err
			}
			freed, err := registry.Open(o.DataDir).GC()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%.1f MiB freed\n", float64(freed)/(1<<20))
			return err
		},
	}
}
