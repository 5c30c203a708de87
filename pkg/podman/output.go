package podman

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// maxOutput bounds what is read of a container's output, in bytes.
const maxOutput = 64 << 10

// Output implements container.Runtime.
func (c *Client) Output(ctx context.Context, id string, lines int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.look)
	defer cancel()
	response, err := c.send(ctx, request{
		method: http.MethodGet, path: "/containers/%s/logs", values: []string{id},
		query: url.Values{"stdout": {"true"}, "stderr": {"true"}, "tail": {strconv.Itoa(lines)}},
	})
	if err != nil {
		return nil, fmt.Errorf("reading the output of container %.12s: %w", id, err)
	}
	defer response.Body.Close()
	if !response.IsSuccess() {
		return nil, fmt.Errorf("reading the output of container %.12s: %w", id, c.translate(decode(response.Response, 0, nil), nil))
	}
	return joined(io.LimitReader(response.Body, maxOutput)), nil
}

// frameHeader is the length of what stands before each piece of output: which of the
// two streams it is of, and how long it is.
const frameHeader = 8

// joined takes the pieces of an output together, up to where they end or make no sense.
func joined(from io.Reader) []byte {
	var all bytes.Buffer
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(from, header[:]); err != nil {
			return all.Bytes()
		}
		length := binary.BigEndian.Uint32(header[4:])
		if n, err := io.CopyN(&all, from, int64(length)); err != nil || n == 0 && length > 0 {
			return all.Bytes()
		}
	}
}
