package podman

import (
	"os"
	"path/filepath"
	"strings"
)

// helperDirs are where podman looks for programs of its own, and then in those of PATH.
var helperDirs = []string{
	"/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman",
	"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
}

// noBridge says what networks of containers lack on this device; "" for nothing. backend is
// what podman says of its networks.
func noBridge(root, backend string) string {
	var missing []string
	for _, program := range []string{"netavark", "aardvark-dns"} {
		if !installed(root, program) {
			missing = append(missing, program)
		}
	}
	if !installed(root, "iptables") && !installed(root, "nft") {
		missing = append(missing, "iptables or nftables")
	}
	switch {
	case len(missing) > 0:
		return "this device lacks " + strings.Join(missing, ", ") + ": install it, for example apt-get install netavark aardvark-dns iptables nftables"
	case backend != "" && backend != "netavark":
		return "podman uses " + backend + " instead of netavark: restart fleet-agent, which configures that"
	}
	return ""
}

// noShared is as noBridge for pods.
func noShared(root string) string {
	if !installed(root, "catatonit") {
		return "this device lacks catatonit: install it, for example apt-get install catatonit"
	}
	return ""
}

// installed reports whether podman would find a program.
func installed(root, program string) bool {
	for _, dir := range append([]string{"/usr/libexec/catatonit", "/usr/local/libexec/catatonit", "/usr/lib/catatonit"}, helperDirs...) {
		if info, err := os.Stat(filepath.Join(root, dir, program)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}
