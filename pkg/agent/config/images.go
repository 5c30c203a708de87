package config

import (
	"fmt"
	"net/url"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/pace"
)

const (
	maxTransfers = 16
	// maxResumeMiB is a TiB.
	maxResumeMiB = 1 << 20
)

// MirrorsOf returns the base URLs of mirrors by registry, in order.
func (i *Images) MirrorsOf() (map[string][]string, error) {
	all := map[string][]string{}
	for n, line := range i.Mirrors {
		registry, base, found := strings.Cut(line, "=")
		u, err := url.Parse(base)
		if !found || err != nil || registry == "" || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("images.mirrors[%d]: %.200q is not of the form REGISTRY=https://HOST[:PORT], as docker.io=https://mirror.example.com", n, line)
		}
		all[registry] = append(all[registry], u.Scheme+"://"+u.Host)
	}
	return all, nil
}

func (i *Images) validateTransfers() error {
	if _, err := i.MirrorsOf(); err != nil {
		return err
	}
	if _, err := pace.Parse(i.Bandwidth); err != nil {
		return fmt.Errorf("images.bandwidth%w", err)
	}
	if i.Transfers < 1 || i.Transfers > maxTransfers {
		return fmt.Errorf("images.transfers: %d is not a number from 1 to %d", i.Transfers, maxTransfers)
	}
	if i.ResumeMiB < 0 || i.ResumeMiB > maxResumeMiB {
		return fmt.Errorf("images.resumeMiB: %d is not a number from 0 to %d", i.ResumeMiB, maxResumeMiB)
	}
	return nil
}
