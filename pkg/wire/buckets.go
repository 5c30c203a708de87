package wire

import (
	"errors"
	"fmt"
	"strings"
)

// JetStream key-value buckets. The server alone reads and writes them.
const (
	// BucketDesiredState holds an Entry under "<device>.<namespace>.<deployment>".
	// The assigner writes it; tools read it. File storage.
	BucketDesiredState = "desired-state"
	// BucketDeviceInfo holds a DeviceInfo under "info.<device>". The device API
	// writes it, the device reconciler reads it. File storage.
	BucketDeviceInfo = "device-info"
	// BucketDeviceState holds a DeploymentState under
	// "state.<device>.<namespace>.<deployment>". The device API writes it, the
	// assigner reads it. File storage.
	BucketDeviceState = "device-state"
	// BucketDeviceHeartbeat holds a Heartbeat under "heartbeat.<device>". The
	// device API writes it, a second late at most; operators and monitoring read it.
	// Memory storage.
	BucketDeviceHeartbeat = "device-heartbeat"
)

// ErrKey is wrapped by every error about a bucket key that has the wrong form.
var ErrKey = errors.New("malformed bucket key")

const (
	infoPrefix      = "info"
	statePrefix     = "state"
	heartbeatPrefix = "heartbeat"
)

// DesiredStateKey builds a key of BucketDesiredState.
func DesiredStateKey(device string, ref DeploymentRef) (string, error) {
	return deploymentKey("", device, ref)
}

// ParseDesiredStateKey is the inverse of DesiredStateKey.
func ParseDesiredStateKey(key string) (device string, ref DeploymentRef, err error) {
	return parseDeploymentKey("", key)
}

// StateKey builds a key of BucketDeviceState.
func StateKey(device string, ref DeploymentRef) (string, error) {
	return deploymentKey(statePrefix, device, ref)
}

// ParseStateKey is the inverse of StateKey.
func ParseStateKey(key string) (device string, ref DeploymentRef, err error) {
	return parseDeploymentKey(statePrefix, key)
}

// InfoKey builds a key of BucketDeviceInfo.
func InfoKey(device string) (string, error) { return deviceKey(infoPrefix, device) }

// ParseInfoKey is the inverse of InfoKey.
func ParseInfoKey(key string) (device string, err error) { return parseDeviceKey(infoPrefix, key) }

// HeartbeatKey builds a key of BucketDeviceHeartbeat.
func HeartbeatKey(device string) (string, error) { return deviceKey(heartbeatPrefix, device) }

// ParseHeartbeatKey is the inverse of HeartbeatKey.
func ParseHeartbeatKey(key string) (device string, err error) {
	return parseDeviceKey(heartbeatPrefix, key)
}

func deviceKey(prefix, device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return prefix + "." + device, nil
}

func parseDeviceKey(prefix, key string) (string, error) {
	device, ok := strings.CutPrefix(key, prefix+".")
	if !ok {
		return "", keyError(key)
	}
	if err := ValidateDevice(device); err != nil {
		return "", fmt.Errorf("%w: %w", keyError(key), err)
	}
	return device, nil
}

func deploymentKey(prefix, device string, ref DeploymentRef) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	if err := ref.Validate(); err != nil {
		return "", err
	}
	key := device + "." + ref.Namespace + "." + ref.Name
	if prefix != "" {
		key = prefix + "." + key
	}
	return key, nil
}

func parseDeploymentKey(prefix, key string) (string, DeploymentRef, error) {
	rest := key
	if prefix != "" {
		var ok bool
		if rest, ok = strings.CutPrefix(key, prefix+"."); !ok {
			return "", DeploymentRef{}, keyError(key)
		}
	}
	tokens := strings.Split(rest, ".")
	if len(tokens) != 3 {
		return "", DeploymentRef{}, keyError(key)
	}
	device, ref := tokens[0], DeploymentRef{Namespace: tokens[1], Name: tokens[2]}
	if err := errors.Join(ValidateDevice(device), ref.Validate()); err != nil {
		return "", DeploymentRef{}, fmt.Errorf("%w: %w", keyError(key), err)
	}
	return device, ref, nil
}

func keyError(key string) error {
	const longest = 4 * (MaxNameLength + 1)
	return fmt.Errorf("%w %.*q", ErrKey, longest, key)
}
