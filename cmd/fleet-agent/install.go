package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/hostinstall"
	"fleet.nationtech.io/fleet/pkg/version"
	"fleet.nationtech.io/fleet/pkg/wire"
)

var errNotRoot = errors.New("this changes the host: run it as root")

// runningProgram is what runs, whatever its path leads to by now.
const runningProgram = "/proc/self/exe"

// installOptions are the flags of install, uninstall and add-repository.
type installOptions struct {
	dryRun, noStart, purge, volumes, allowDowngrade bool
	caHash, manager                                 string
}

func newInstall() *cobra.Command {
	var i installOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make this device run the agent; once it is enrolled, start it",
		Long: `Make this device run the agent: program, accounts, units. Once the device is
enrolled, start it. It may be run again at any time; what is as it should be
stays. A file that somebody edited is shown and left alone.

Without a package the program that runs is copied to ` + hostinstall.Agent.Program() + `; if
the agent is not ready with it in a minute, the one of before comes back. With a
package all files are the package's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, unlock, err := i.installer(cmd)
			if err != nil {
				return err
			}
			defer unlock()
			return in.Install(cmd.Context(), hostinstall.Options{NoStart: i.noStart, AllowDowngrade: i.allowDowngrade})
		},
	}
	i.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&i.allowDowngrade, "allow-downgrade", false, "install a version older than the one that is installed")
	cmd.Flags().BoolVar(&i.noStart, "no-start", false, "leave the service as it is, disabled if it is new")
	return cmd
}

func newUninstall() *cobra.Command {
	var i installOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Undo install and add-repository; identity and data stay unless --purge is given",
		Long: `Undo install and add-repository: stop the agent and its containers, and remove
the files that were written. Identity, images and volumes stay unless --purge is
given; edited files, mount points, the accounts and, without --volumes, volumes
that hold something stay in any case. A package has to be removed with apt-get
or dnf afterwards.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, unlock, err := i.installer(cmd)
			if err != nil {
				return err
			}
			defer unlock()
			return in.Uninstall(cmd.Context(), hostinstall.Removal{Purge: i.purge, Volumes: i.volumes})
		},
	}
	i.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&i.purge, "purge", false, "remove identity, containers and images too")
	cmd.Flags().BoolVar(&i.volumes, "volumes", false, "with --purge: remove volumes that hold something too")
	return cmd
}

func newAddRepository(f flags) *cobra.Command {
	var i installOptions
	cmd := &cobra.Command{
		Use:   "add-repository https://GATEWAY:8443",
		Short: "Let apt or dnf install the agent from its gateway",
		Long: `Let apt or dnf install and upgrade the agent from its gateway. The gateway's
root certificate is fetched and compared with --ca-hash; package manager and
keys are told to trust it for this gateway alone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, unlock, err := i.installer(cmd)
			if err != nil {
				return err
			}
			defer unlock()
			way, err := repositoryWay(f)
			if err != nil {
				return err
			}
			r, err := i.repository(cmd.Context(), args[0], way)
			if err != nil {
				return err
			}
			return in.AddRepository(cmd.Context(), r)
		},
	}
	i.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&i.caHash, "ca-hash", "", "SHA-256 in hex of the gateway's root key: the second part of an enrollment token")
	cmd.Flags().StringVar(&i.manager, "manager", "", "apt or dnf (default: the one that is there)")
	_ = cmd.MarkFlagRequired("ca-hash") // fails for unknown flags only
	return cmd
}

func (i *installOptions) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&i.dryRun, "dry-run", false, "say what would be done, and do nothing")
}

func (i *installOptions) installer(cmd *cobra.Command) (in *hostinstall.Installer, unlock func(), err error) {
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
		Host: hostinstall.OS{}, Product: hostinstall.Agent, Program: runningProgram, Version: version.Version,
		Out: cmd.OutOrStdout(), DryRun: i.dryRun,
	}, unlock, nil
}

// Where a gateway has OpenPGP keys: pathIndexKey its own, which signs the index of
// apt, pathPackagesKey that of the release, which signs rpm packages and their index.
// Gateways of before have pathKeys, with both, and the latter in their mirror.
const (
	pathIndexKey    = "/packages/gateway.asc"
	pathPackagesKey = "/packages/packages.asc"
	pathKeys        = "/packages/keys.asc"
	pathMirror      = "/packages/mirror"

	maxKeys  = 256 << 10
	keysTime = 20 * time.Second
)

// rpmArch is how rpm calls an architecture.
var rpmArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7hl"}

func (i *installOptions) repository(ctx context.Context, gateway string, way *proxy.Proxy) (hostinstall.Repository, error) {
	r := hostinstall.Repository{Manager: i.manager, Arch: rpmArch[runtime.GOARCH]}
	if r.Manager == "" {
		r.Manager = "dnf"
		if _, err := exec.LookPath("apt-get"); err == nil {
			r.Manager = "apt"
		}
	}
	if !wire.ValidHash(i.caHash) {
		return r, errors.New("--ca-hash must be a SHA-256 in hex, as in the second part of an enrollment token")
	}
	root, err := enroll.FetchRoot(ctx, gateway, i.caHash, way)
	if err != nil {
		return r, err
	}
	if r.Gateway, err = url.Parse(gateway); err != nil {
		return r, err
	}
	r.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	r.Keys, err = fetchKeys(ctx, r, root, way)
	return r, err
}

// fetchKeys fetches what the package manager shall trust, and nothing else: see
// hostinstall.Repository.
func fetchKeys(ctx context.Context, r hostinstall.Repository, root *x509.Certificate, way *proxy.Proxy) ([]byte, error) {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}, DialContext: way.Dialer(new(net.Dialer)).DialContext}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	get := func(path ...string) ([]byte, error) { return fetch(ctx, transport, r.Gateway.JoinPath(path...)) }
	var keys []byte
	var err error
	if r.Manager == "apt" {
		if keys, err = get(pathIndexKey); errors.Is(err, errNotThere) {
			keys, err = get(pathKeys)
		}
	} else if keys, err = get(pathPackagesKey); errors.Is(err, errNotThere) {
		keys, err = fromMirror(get, "packages.asc")
	}
	if err != nil {
		return nil, fmt.Errorf("fetching the gateway's keys: %w", err)
	}
	return keys, nil
}

// fromMirror gets a file of the release that the gateway serves.
func fromMirror(get func(path ...string) ([]byte, error), name string) ([]byte, error) {
	version, err := get(pathMirror, "stable", "version")
	if err != nil {
		return nil, err
	}
	return get(pathMirror, strings.TrimSpace(string(version)), name)
}

var errNotThere = errors.New("it has none: does it have packages? see fleet-server bundle import")

func fetch(ctx context.Context, transport http.RoundTripper, address *url.URL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(resp.Body, maxKeys))
	case http.StatusNotFound:
		return nil, errNotThere
	}
	return nil, fmt.Errorf("it answers %s", resp.Status)
}
