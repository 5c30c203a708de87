package config

import (
	"errors"
	"fmt"
	"io/fs"

	"fleet.nationtech.io/fleet/pkg/settings"
)

// Enrolled returns the content of agent.yaml with what enrollment found out:
// the device id and the NATS URLs. Everything else that the file has stays,
// comments included. A file that does not exist counts as empty.
func Enrolled(path, device string, urls []string) ([]byte, error) {
	data, err := settings.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	content, _, err := settings.Edit(data,
		settings.Change{Key: "device", Values: []string{device}},
		settings.Change{Key: "server.urls", Values: urls, List: true},
		settings.Change{Key: "credentials.type", Values: []string{CredentialsX509}, Default: true},
	)
	if err != nil {
		return nil, fmt.Errorf("%w in %s: %w", settings.ErrInvalid, path, err)
	}
	return content, nil
}

// WithServers returns the content of agent.yaml with other NATS URLs. Everything else that
// the file has stays, comments included. It returns an error that wraps
// settings.ErrInvalid for URLs that no agent could use.
func WithServers(path string, urls []string) ([]byte, error) {
	checked := Default()
	checked.Server.URLs = urls
	if err := checked.Validate(); err != nil {
		return nil, err
	}
	data, err := settings.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	content, _, err := settings.Edit(data, settings.Change{Key: "server.urls", Values: urls, List: true})
	if err != nil {
		return nil, fmt.Errorf("%w in %s: %w", settings.ErrInvalid, path, err)
	}
	return content, nil
}
