package facts

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrHardware: nothing on the machine tells it from others.
var ErrHardware = errors.New("this machine has no product UUID, no serial number and no machine id")

// hardwareSources are where a machine's own number is, the best first: those of
// the firmware stay when the disk is replaced or copied.
var hardwareSources = []string{
	"sys/class/dmi/id/product_uuid",
	"proc/device-tree/serial-number",
	"sys/firmware/devicetree/base/serial-number",
	"etc/machine-id",
}

// shared are numbers that makers of boards ship with every one of them.
var shared = []string{
	"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009", "00010203-0405-0607-0809-0a0b0c0d0e0f",
	"00000000-0000-0000-0807-060504030201", "01234567-8910-1112-1314-151617181920", "12345678-1234-5678-90ab-cddeefaabbcc",
	"deadbeef-dead-beef-dead-beefdeadbeef", "0123456789", "0123456789abcdef", "1234567890", "123456789", "12345678",
	"1234567890abcdef", "default string", "to be filled by o.e.m.", "not specified", "not applicable", "none", "unknown", "n/a",
	"system serial number", "uninitialized",
}

// HardwareFile has what HardwareID returned to root. The agent's account may not
// read what the firmware says. Root writes it at each start of the agent, and it is
// gone with a reboot: a copy of the disk brings no id of another machine along.
const HardwareFile = "/run/fleet-agent-hardware-id"

// RecordedHardwareID returns the content of a HardwareFile, or else what HardwareID
// returns. Errors are those of HardwareID.
func RecordedHardwareID(file, root string) (string, error) {
	data, err := os.ReadFile(file)
	if id := clean(string(data)); err == nil && len(id) == hex.EncodedLen(sha256.Size) {
		return id, nil
	}
	return HardwareID(root)
}

// HardwareID returns the SHA-256 in lower-case hex of "fleet hardware id", a zero
// byte, and the first number in hardwareSources, in lower case and without the
// white space around it. root is "/" outside of tests. Errors are ErrHardware, or
// wrap fs.ErrPermission: without a number that is there but may not be read, the
// machine would have one id for root and another for others.
func HardwareID(root string) (string, error) {
	for _, source := range hardwareSources {
		data, err := os.ReadFile(filepath.Join(root, source))
		if errors.Is(err, fs.ErrPermission) {
			return "", fmt.Errorf("reading the hardware id: %w: run this as root", err)
		}
		if number := clean(string(data)); err == nil && !blank(number) {
			sum := sha256.Sum256([]byte("fleet hardware id\x00" + number))
			return hex.EncodeToString(sum[:]), nil
		}
	}
	return "", ErrHardware
}

// clean drops what surrounds a number: the device tree ends strings with a zero.
func clean(number string) string {
	return strings.ToLower(strings.Trim(number, " \t\r\n\x00"))
}

// blank reports whether a number is what firmware has that was not given one:
// nothing, one digit over and over, or what is on every board of its kind.
func blank(number string) bool {
	digits := strings.ReplaceAll(number, "-", "")
	return digits == "" || strings.Trim(digits, digits[:1]) == "" || slices.Contains(shared, number)
}
