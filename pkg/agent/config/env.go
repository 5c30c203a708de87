package config

import (
	"fmt"
	"strings"
	"time"
)

// EnvPath names the configuration file.
const EnvPath = "FLEET_AGENT_CONFIG"

// applyEnv overrides what the environment names. Lists are separated by commas.
func (c *Config) applyEnv(getenv func(string) string) error {
	texts := map[string]*string{
		"FLEET_AGENT_DEVICE":           &c.Device,
		"FLEET_AGENT_CREDENTIALS_TYPE": &c.Credentials.Type,
		"FLEET_AGENT_STATE_DIR":        &c.StateDir,
		"FLEET_AGENT_PODMAN_SOCKET":    &c.Podman.Socket,
		"FLEET_AGENT_PODMAN_AUTH_FILE": &c.Podman.AuthFile,
		"FLEET_AGENT_LOG_LEVEL":        &c.Log.Level,
		"FLEET_AGENT_LOG_FORMAT":       &c.Log.Format,
	}
	for name, field := range texts {
		if v := getenv(name); v != "" {
			*field = v
		}
	}
	lists := map[string]*[]string{
		"FLEET_AGENT_SERVER_URLS": &c.Server.URLs,
		"FLEET_AGENT_BIND_ROOTS":  &c.BindRoots,
	}
	for name, field := range lists {
		if v := getenv(name); v != "" {
			*field = strings.Split(v, ",")
		}
	}
	durations := map[string]*time.Duration{
		"FLEET_AGENT_HEARTBEAT_INTERVAL": &c.HeartbeatInterval,
		"FLEET_AGENT_SNAPSHOT_INTERVAL":  &c.SnapshotInterval,
	}
	for name, field := range durations {
		v := getenv(name)
		if v == "" {
			continue
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%w: %s: %.64q is not a duration such as 30s", ErrInvalid, name, v)
		}
		*field = d
	}
	return nil
}
