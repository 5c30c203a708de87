package podman

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// maxFile bounds a file that is read from a container, maxArchive the archive around it.
const maxFile, maxArchive = 4 << 10, 64 << 10

// Signal implements container.Runtime.
func (c *Client) Signal(ctx context.Context, id string, signal syscall.Signal) error {
	err := c.call(ctx, request{
		method: http.MethodPost, path: "/containers/%s/kill", values: []string{id},
		query: url.Values{"signal": {strconv.Itoa(int(signal))}},
	}, nil)
	answer, refused := errors.AsType[*refusal](err)
	if err != nil && !errors.Is(err, container.ErrNotFound) && !notStarted(err) && (!refused || answer.status != http.StatusConflict) {
		return fmt.Errorf("sending signal %d to container %.12s: %w", signal, id, err)
	}
	return nil
}

// Unpack implements container.Runtime. Podman writes into the volumes of a container that
// does not run, also where the container may only read.
func (c *Client) Unpack(ctx context.Context, id, directory string, archive []byte) error {
	err := c.call(ctx, request{
		method: http.MethodPut, path: "/containers/%s/archive", values: []string{id}, raw: archive,
		header: http.Header{"Content-Type": {"application/x-tar"}},
		// Owners are those of the archive, and not the user of the container.
		query: url.Values{"path": {directory}, "copyUIDGID": {"false"}},
	}, nil)
	if err != nil {
		return fmt.Errorf("writing files of container %.12s: %w", id, err)
	}
	return nil
}

// ReadFile implements container.Runtime.
func (c *Client) ReadFile(ctx context.Context, id, path string) ([]byte, error) {
	var archive rawAnswer
	err := c.call(ctx, request{
		method: http.MethodGet, path: "/containers/%s/archive", values: []string{id}, query: url.Values{"path": {path}}, limit: maxArchive,
	}, &archive)
	if err != nil {
		return nil, fmt.Errorf("reading %s of container %.12s: %w", path, id, err)
	}
	r := tar.NewReader(bytes.NewReader(archive))
	if h, err := r.Next(); err != nil || h.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("reading %s of container %.12s: %w: no file", path, id, errProtocol)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxFile))
	if err != nil {
		return nil, fmt.Errorf("reading %s of container %.12s: %w", path, id, errProtocol)
	}
	return content, nil
}
