package config

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// EnvPath names the configuration file.
const EnvPath = "FLEET_AGENT_CONFIG"

// applyEnv overrides what the environment names. Lists are separated by commas.
func (c *Config) applyEnv(getenv func(string) string) error {
	for name, field := range map[string]*string{
		"FLEET_AGENT_DEVICE":           &c.Device,
		"FLEET_AGENT_CREDENTIALS_TYPE": &c.Credentials.Type,
		"FLEET_AGENT_KEY_STORAGE":      &c.KeyStorage,
		"FLEET_AGENT_TPM_DEVICE":       &c.TPM.Device,
		"FLEET_AGENT_STATE_DIR":        &c.StateDir,
		"FLEET_AGENT_PODMAN_SOCKET":    &c.Podman.Socket,
		"FLEET_AGENT_PODMAN_AUTH_FILE": &c.Podman.AuthFile,
		"FLEET_AGENT_LOG_LEVEL":        &c.Log.Level,
		"FLEET_AGENT_LOG_FORMAT":       &c.Log.Format,
	} {
		*field = cmp.Or(getenv(name), *field)
	}
	for name, field := range map[string]*[]string{
		"FLEET_AGENT_SERVER_URLS": &c.Server.URLs,
		"FLEET_AGENT_BIND_ROOTS":  &c.BindRoots,
	} {
		if v := getenv(name); v != "" {
			*field = strings.Split(v, ",")
		}
	}
	return errors.Join(
		setDuration(&c.HeartbeatInterval, "FLEET_AGENT_HEARTBEAT_INTERVAL", getenv),
		setDuration(&c.SnapshotInterval, "FLEET_AGENT_SNAPSHOT_INTERVAL", getenv),
	)
}

func setDuration(field *time.Duration, name string, getenv func(string) string) error {
	text := getenv(name)
	if text == "" {
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%w: %s: %.64q is not a duration such as 30s", ErrInvalid, name, text)
	}
	*field = d
	return nil
}
