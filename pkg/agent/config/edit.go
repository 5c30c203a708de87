package config

import (
	"errors"
	"fmt"
	"io/fs"

	"fleet.nationtech.io/fleet/pkg/settings"
)

// Enrolled returns the content of agent.yaml with what enrollment found out:
// the device id, the NATS URLs, and the proxy that it went through, if any.
// Everything else that the file has stays, comments included. A file that does not
// exist counts as empty.
func Enrolled(path, device string, urls []string, way Proxy) ([]byte, error) {
	data, err := settings.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	changes := []settings.Change{
		{Key: "device", Values: []string{device}},
		{Key: "server.urls", Values: urls, List: true},
		{Key: "credentials.type", Values: []string{CredentialsX509}, Default: true},
	}
	content, _, err := settings.Edit(data, append(changes, way.changes()...)...)
	if err != nil {
		return nil, fmt.Errorf("%w in %s: %w", settings.ErrInvalid, path, err)
	}
	return content, nil
}

// changes write down what there is of a proxy.
func (p Proxy) changes() []settings.Change {
	var changes []settings.Change
	if p.URL != "" {
		changes = append(changes, settings.Change{Key: "proxy.url", Values: []string{p.URL}})
	}
	if len(p.NoProxy) > 0 {
		changes = append(changes, settings.Change{Key: "proxy.noProxy", Values: p.NoProxy, List: true})
	}
	if p.CredentialsFile != "" {
		changes = append(changes, settings.Change{Key: "proxy.credentialsFile", Values: []string{p.CredentialsFile}})
	}
	return changes
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
