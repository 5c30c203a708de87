package helper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	// maxMirrored bounds the registries that have a mirror, maxMirrorFile the file in bytes.
	maxMirrored, maxMirrorFile = 64, 64 << 10
)

// registryName is the form of a registry: it is written into a file of podman's.
var registryName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?$`)

// Mirror makes an address on loopback, HOST:PORT, podman's mirror of registries, and of no
// others. It reports whether that is a change, which podman learns of shortly after. It
// returns ErrUnavailable or the error of ctx.
func (c *Client) Mirror(ctx context.Context, address string, registries []string) (changed bool, err error) {
	got, _, err := c.ask(ctx, &request{Mirror: address, Registries: registries, Timeout: patience(ctx, maxDial)}, maxReply, 0)
	if err != nil || got.Outcome != seen {
		return false, c.failure(ctx, &got, err)
	}
	return got.Changed, nil
}

func (r *request) validateMirror() error {
	at, err := netip.ParseAddrPort(r.Mirror)
	if err != nil || !at.Addr().IsLoopback() || len(r.Registries) > maxMirrored {
		return errRequest
	}
	for _, registry := range r.Registries {
		if !registryName.MatchString(registry) {
			return errRequest
		}
	}
	return nil
}

var errNoMirrors = errors.New("it is not told where podman looks for mirrors")

// mirror tells podman of a mirror.
func (s *Server) mirror(ctx context.Context, r *request) reply {
	if s.Mirrors == "" {
		return answer(failed, errNoMirrors)
	}
	changed, err := writeMirrors(s.Mirrors, mirrorsOf(r))
	if err == nil && changed {
		if err = s.Reload(ctx); err != nil { // whoever asks again must not find it told
			err = errors.Join(err, os.Remove(s.Mirrors))
		}
	}
	if err != nil {
		return answer(failed, fmt.Errorf("telling podman of the mirror: %w", err))
	}
	return reply{Outcome: seen, Changed: changed}
}

// mirrorsOf is what registries.conf has to say. Podman goes on to the registry itself when
// the mirror does not answer, as while the agent does not run.
func mirrorsOf(r *request) []byte {
	var b strings.Builder
	b.WriteString("# Written by fleet-agent at its pulls.\n")
	for _, registry := range r.Registries {
		fmt.Fprintf(&b, "\n[[registry]]\nprefix = %q\nlocation = %[1]q\n[[registry.mirror]]\nlocation = %[2]q\n", registry, r.Mirror+"/"+strings.ReplaceAll(registry, ":", "__"))
	}
	return []byte(b.String())
}

func writeMirrors(path string, content []byte) (changed bool, err error) {
	if f, err := os.Open(path); err == nil {
		present, _ := io.ReadAll(io.LimitReader(f, maxMirrorFile))
		_ = f.Close()
		if bytes.Equal(present, content) {
			return false, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	return true, atomicfile.Write(path, content, 0o600)
}
