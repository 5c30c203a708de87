package enroll

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// machineHashLength is the length of the hash in a default device id. Eight
// digits keep hosts with one name apart: among 1,000 of them two share an id
// with a chance of 1 to 8,600.
const machineHashLength = 8

// DefaultDevice derives a device id from the host name and the content of
// /etc/machine-id: "<host name>-<hash>". The machine id itself should not be
// published, so only a hash of it is used.
func DefaultDevice(hostname, machineID string) string {
	sum := sha256.Sum256([]byte("fleet device id\x00" + strings.TrimSpace(machineID)))
	hash := hex.EncodeToString(sum[:])[:machineHashLength]
	name := sanitize(hostname, wire.MaxNameLength-len(hash)-1)
	if name == "" {
		name = "device"
	}
	return name + "-" + hash
}

// sanitize makes a host name an RFC 1123 label of at most longest bytes: the
// part before the first dot, in lower case, with '-' for what a label cannot
// have. It may be empty.
func sanitize(hostname string, longest int) string {
	host, _, _ := strings.Cut(strings.ToLower(hostname), ".")
	label := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, host)
	return strings.Trim(label[:min(len(label), longest)], "-")
}
