package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// repodata writes the index for dnf of the agent's package for an architecture,
// as repodata-ARCH-PART, and signs it with the key of packages: dnf does what an
// index says, so that gateways must not write it.
func (r release) repodata(ctx context.Context, a arch, keys *keys) error {
	packages, err := filepath.Glob(r.path("fleet-agent-*." + a.rpm + ".rpm"))
	if err != nil {
		return err
	}
	stage, err := os.MkdirTemp("", "fleet-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	s := staging{release: r, program: "fleet-server", dir: stage}
	args := append([]string{"gen-repodata", "--date", strconv.FormatInt(r.time.Unix(), 10), stage}, packages...)
	if _, err := s.tool(ctx, args...); err != nil {
		return err
	}
	for _, part := range []string{"repomd.xml", "primary.xml.gz", "filelists.xml.gz"} {
		data, err := os.ReadFile(filepath.Join(stage, part))
		if err != nil {
			return err
		}
		if err := os.WriteFile(r.repodataPath(a, part), data, 0o644); err != nil {
			return err
		}
	}
	return r.signRepodata(a, keys)
}

func (r release) repodataPath(a arch, part string) string {
	return r.path(fmt.Sprintf("repodata-%s-%s", a.rpm, part))
}

func (r release) signRepodata(a arch, keys *keys) error {
	index, err := os.ReadFile(r.repodataPath(a, "repomd.xml"))
	if err != nil {
		return err
	}
	signature, err := keys.signIndex(index, r.time)
	if err != nil {
		return err
	}
	return os.WriteFile(r.repodataPath(a, "repomd.xml.asc"), signature, 0o644)
}
