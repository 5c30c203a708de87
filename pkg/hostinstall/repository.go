package hostinstall

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// Repository is what a gateway offers to a package manager.
type Repository struct {
	// Gateway is its address: https://HOST:PORT.
	Gateway *url.URL
	// CA is the gateway's root certificates in PEM.
	CA []byte
	// Keys are the OpenPGP keys that the manager shall trust: for apt the
	// gateway's, which signs the index with the hashes of packages, for dnf the
	// release's, which signs packages and their index. dnf has one list for both, and
	// adds what it has to those that may sign any package.
	Keys []byte
	// Manager is apt or dnf.
	Manager string
	// Arch is that of rpm: x86_64, aarch64 or armv7hl.
	Arch string
}

// Places of the files of a repository.
const (
	aptSource      = "/etc/apt/sources.list.d/fleet-gateway.sources"
	aptConf        = "/etc/apt/apt.conf.d/50fleet-gateway"
	aptPreferences = "/etc/apt/preferences.d/fleet-gateway"
	aptCA          = "/etc/apt/keyrings/fleet-gateway-ca.crt"
	aptKeys        = "/etc/apt/keyrings/fleet-gateway.asc"
	dnfRepo        = "/etc/yum.repos.d/fleet-gateway.repo"
	dnfCA          = "/etc/pki/tls/certs/fleet-gateway-ca.crt"
	dnfKeys        = "/etc/pki/rpm-gpg/RPM-GPG-KEY-fleet-gateway"
)

// RepositoryRoots are the files with the root of the gateway, for apt and for dnf.
// Those of AddRepository are there.
func RepositoryRoots() []string { return []string{aptCA, dnfCA} }

// RepositoryForm are texts that files of AddRepository have since packages are told
// from indices, by the file that is there if its package manager was told of a
// gateway. An earlier version wrote files without them.
func RepositoryForm() map[string]map[string]string {
	return map[string]map[string]string{
		aptSource: {aptConf: verifyCommand, aptPreferences: "Pin-Priority: -1"},
		dnfRepo:   {dnfRepo: verifiedIndex},
	}
}

const (
	verifyCommand = "/usr/bin/fleet-agent verify-packages"
	// verifiedIndex: dnf does what an index says, as removing packages that another
	// makes obsolete. So it must be signed by the maker, whose key alone is there, and
	// be about the one package: a gateway must not replace what the system is made of.
	verifiedIndex = "repo_gpgcheck=1\ngpgkey=file://" + dnfKeys + "\nincludepkgs=" + packageName + "\n"
)

// AddRepository tells the package manager where the gateway's packages are,
// with the root and the keys that it shall trust for them and nothing else.
func (in *Installer) AddRepository(ctx context.Context, r Repository) error {
	if err := in.begin(ctx); err != nil {
		return err
	}
	files, err := r.files()
	if err != nil {
		return err
	}
	measured, err := in.measure(files)
	if err != nil {
		return err
	}
	var p plan
	for _, w := range measured {
		p.steps = append(p.steps, writeFile{w})
	}
	in.show(p)
	if in.DryRun {
		return nil
	}
	restart := in.manifest.Restart
	if err := in.doAll(ctx, p.steps); err != nil {
		return err
	}
	in.manifest.Restart = restart // no service reads these
	if err := in.save(); err != nil {
		return err
	}
	return p.incomplete()
}

func (r *Repository) files() ([]file, error) {
	if strings.Contains(r.Gateway.Hostname(), ":") {
		return nil, fmt.Errorf("%s: a package manager cannot be given the root of an IPv6 address: use the gateway's name: %w", r.Gateway, ErrRefused)
	}
	base, host := r.Gateway.JoinPath("packages"), r.Gateway.Hostname()
	switch r.Manager {
	case "apt":
		return []file{
			{path: aptCA, mode: 0o644, content: r.CA},
			{path: aptKeys, mode: 0o644, content: r.Keys},
			{path: aptConf, mode: 0o644, content: fmt.Appendf(nil, written+"Acquire::https::%s::CaInfo \"%s\";\n"+
				"DPkg::Pre-Install-Pkgs { \"if test -e %s; then exec %s; fi\"; };\n", host, aptCA, ReleaseKey, verifyCommand)},
			// A gateway must not replace what the system is made of by something newer.
			{path: aptPreferences, mode: 0o644, content: fmt.Appendf(nil, written+
				"Package: *\nPin: origin \"%s\"\nPin-Priority: -1\n\nPackage: %s\nPin: origin \"%s\"\nPin-Priority: 500\n", host, packageName, host)},
			// The clock of a device may be late by a day.
			{path: aptSource, mode: 0o644, content: fmt.Appendf(nil, written+
				"Types: deb\nURIs: %s\nSuites: stable\nComponents: main\nSigned-By: %s\nDate-Max-Future: 86400\n", base.JoinPath("apt"), aptKeys)},
		}, nil
	case "dnf":
		return []file{
			{path: dnfCA, mode: 0o644, content: r.CA},
			{path: dnfKeys, mode: 0o644, content: r.Keys},
			// A gateway that is off must not keep the system from its updates. The slash at
			// the end of the address, which an earlier form had not, gives dnf another cache:
			// it would go on believing an index, and keys for it, that it took before.
			{path: dnfRepo, mode: 0o644, content: fmt.Appendf(nil, written+
				"[fleet-gateway]\nname=Packages of the fleet gateway\nbaseurl=%s\nenabled=1\ngpgcheck=1\n"+verifiedIndex+
				"sslverify=1\nsslcacert=%s\nskip_if_unavailable=1\n", base.JoinPath("rpm", r.Arch+"/"), dnfCA)},
		}, nil
	}
	return nil, fmt.Errorf("package manager %q: it must be apt or dnf", r.Manager)
}

const written = "# Written by fleet-agent add-repository.\n"

// ReleaseKey is where the package has the key of the release that it is of, in
// PEM. A device believes it from the first package on, which names the next key.
const ReleaseKey = "/usr/share/fleet-agent/release.pub"

// packageName is the one package that comes from a gateway.
const packageName = "fleet-agent"
