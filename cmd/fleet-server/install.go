package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/settings"
	"fleet.nationtech.io/fleet/pkg/version"
)

var errNotRoot = errors.New("this changes the host: run it as root")

// runningProgram is what runs, whatever its path leads to by now.
const runningProgram = "/proc/self/exe"

// installOptions are the flags of install, upgrade and uninstall.
type installOptions struct {
	dryRun, noStart, purge, allowDowngrade bool
	packageFile                            string
}

func newInstall(o *options) *cobra.Command {
	var i installOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make this host run the server, with the settings that flags name",
		Long: "Make this host run the server: account, data directory, unit, and in " + program.File + "\n" +
			"the settings that flags name. It may be run again at any time; what is as it should be stays.\n" +
			"A file that somebody edited is shown and left alone.\n\n" +
			"Without a package the program that runs is copied to " + hostinstall.Server.Program() + ", and a newer one\n" +
			"over an older as upgrade does it. With a package, program, account and unit are the package's.",
		Example: "  fleet-server install --tls-san gateway.example.com --api-listen 127.0.0.1:6443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, unlock, err := i.installer(cmd)
			if err != nil {
				return err
			}
			defer unlock()
			return in.Install(cmd.Context(), i.options(cmd, o))
		},
	}
	i.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&i.noStart, "no-start", false, "leave the service as it is, disabled if it is new")
	i.addDowngrade(cmd.Flags())
	cmd.Flags().StringVar(&i.packageFile, "package", "", "file of the package that was installed, kept for the way back from an upgrade")
	return cmd
}

func newUpgrade(o *options) *cobra.Command {
	var i installOptions
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace the server that is installed, and go back if it is not ready in a minute",
		Long: "Replace the server that is installed: it is stopped and backed up with its data, replaced and\n" +
			"started again. If it is not ready within 60 seconds, the previous program and data come back, except\n" +
			"that revocations and certificate authorities are never set back.\n\n" +
			"Without a package, run the new program: it replaces the old one. With a package, name the file\n" +
			"of the new one; to go back, the older package is needed, as install --package and upgrade keep it.",
		Example: "  ./fleet-server_0.2.0_linux_arm64 upgrade\n" +
			"  fleet-server upgrade --package ./fleet-server_0.2.0_arm64.deb",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, unlock, err := i.installer(cmd)
			if err != nil {
				return err
			}
			defer unlock()
			if i.packageFile != "" {
				return in.UpgradePackage(cmd.Context(), i.options(cmd, o))
			}
			return in.Upgrade(cmd.Context(), i.options(cmd, o))
		},
	}
	i.addFlags(cmd.Flags())
	i.addDowngrade(cmd.Flags())
	cmd.Flags().StringVar(&i.packageFile, "package", "", "file of the new package: .deb or .rpm")
	return cmd
}

func newUninstall() *cobra.Command {
	var i installOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Undo install; data and configuration stay unless --purge is given",
		Long: "Undo install: stop the service and remove the files that install wrote. Data and configuration\n" +
			"stay unless --purge is given; edited files and mount points stay in any case. A package has to be\n" +
			"removed with apt-get or dnf afterwards. Devices run on with what they were last told.",
		Example: "  fleet-server uninstall --purge",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, unlock, err := i.installer(cmd)
			if err != nil {
				return err
			}
			defer unlock()
			return in.Uninstall(cmd.Context(), hostinstall.Removal{Purge: i.purge})
		},
	}
	i.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&i.purge, "purge", false, "remove data and configuration too: every device has to enroll again with a new server")
	return cmd
}

func (i *installOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&i.dryRun, "dry-run", false, "say what would be done, and do nothing")
}

func (i *installOptions) addDowngrade(f *pflag.FlagSet) {
	f.BoolVar(&i.allowDowngrade, "allow-downgrade", false, "install a version older than the one that is installed")
}

func (i *installOptions) installer(cmd writers) (in *hostinstall.Installer, unlock func(), err error) {
	unlock = func() {}
	if !i.dryRun {
		if os.Geteuid() != 0 {
			return nil, nil, errNotRoot
		}
		lock, err := hostinstall.Lock()
		if err != nil {
			return nil, nil, err
		}
		unlock = func() { _ = lock.Close() } // the process ends anyway
	}
	return &hostinstall.Installer{
		Host: hostinstall.OS{}, Product: hostinstall.Server, Program: runningProgram, Version: version.Version,
		Out: cmd.OutOrStdout(), DryRun: i.dryRun,
	}, unlock, nil
}

// options turns the flags that were given into settings; the environment is
// that of this command, not of the service.
func (i *installOptions) options(cmd *cobra.Command, o *options) hostinstall.Options {
	var wanted []settings.Change
	for _, s := range settings.Of(&o.config) {
		p := cmd.Flags().Lookup(s.Flag)
		if p == nil || !p.Changed {
			continue
		}
		w := settings.Change{Key: s.Key, Values: []string{p.Value.String()}}
		if v, ok := p.Value.(pflag.SliceValue); ok {
			w.Values, w.List, w.Inline = v.GetSlice(), true, true
		}
		wanted = append(wanted, w)
	}
	return hostinstall.Options{Settings: wanted, DataDir: o.DataDir, NoStart: i.noStart, Package: i.packageFile, AllowDowngrade: i.allowDowngrade}
}
