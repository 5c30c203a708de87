package podman

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// frameHeader is the length of what stands before each piece of output: which of
	// the two streams it is of, and how long it is.
	frameHeader = 8
	// stderrFrame is the first byte of the header of a piece that is an error.
	stderrFrame = 2
	// maxPiece bounds a piece that is handed on, in bytes.
	maxPiece = 32 << 10
	// maxStamp bounds the time that stands before a piece.
	maxStamp = 40
)

// Logs implements container.Runtime. Podman frames the output of a container with a
// terminal, too. To a container that says nothing its answer begins with the first line.
func (c *Client) Logs(ctx context.Context, id string, o container.LogOptions, sink func(container.Piece) error) error {
	query := url.Values{"stdout": {"true"}, "stderr": {"true"}, "timestamps": {"true"}, "follow": {strconv.FormatBool(o.Follow)}, "tail": {"all"}}
	if o.Tail >= 0 {
		query.Set("tail", strconv.Itoa(o.Tail))
	}
	if !o.Since.IsZero() {
		query.Set("since", o.Since.UTC().Format(time.RFC3339Nano))
	}
	patience := c.look
	if o.Follow {
		patience = 0
	}
	response, done, err := c.begin(ctx, request{method: http.MethodGet, path: "/containers/%s/logs", values: []string{id}, query: query}, patience)
	if err == nil {
		defer done()
		var sunk error
		err = frames(response.Body, true, func(p container.Piece) error { sunk = sink(p); return sunk })
		if sunk != nil {
			return sunk
		}
		err = c.translate(err, nil)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("reading the output of container %.12s: %w", id, err)
	}
	return nil
}

// errCut: an output ended in the middle of a piece.
var errCut = fmt.Errorf("%w: an output was cut off", errProtocol)

// frames hands on the pieces of an output up to its end. Each begins with a time when they
// are dated. Errors wrap errProtocol, come from the transport, or are the sink's.
func frames(from io.Reader, dated bool, sink func(container.Piece) error) error {
	r := bufio.NewReaderSize(from, maxPiece)
	for {
		var header [frameHeader]byte
		if _, err := io.ReadFull(r, header[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return cut(err)
		}
		if header[0] > stderrFrame || header[1] != 0 || header[2] != 0 || header[3] != 0 {
			return fmt.Errorf("%w: an output does not come in pieces", errProtocol)
		}
		p, length := container.Piece{Stderr: header[0] == stderrFrame}, int64(binary.BigEndian.Uint32(header[4:]))
		if dated {
			p.At, length = stamp(r, length)
		}
		if err := frame(r, p, length, sink); err != nil {
			return err
		}
	}
}

// frame hands on what one header announces.
func frame(r *bufio.Reader, p container.Piece, length int64, sink func(container.Piece) error) error {
	for length > 0 {
		text, err := r.Peek(int(min(length, maxPiece)))
		if len(text) > 0 {
			p.Text = text
			if err := sink(p); err != nil {
				return err
			}
		}
		if err != nil {
			return cut(err)
		}
		n, _ := r.Discard(len(text)) // it is in the buffer
		length -= int64(n)
	}
	return nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return err
}

// stamp reads the time before a piece, and returns how much of the piece is left. Text
// that does not begin with a time stays whole. Podman tells fractions of a second since 6.0 only.
func stamp(r *bufio.Reader, length int64) (at time.Time, left int64) {
	text, _ := r.Peek(int(min(length, maxStamp))) // what is amiss shows when the text is read
	word, _, found := bytes.Cut(text, []byte(" "))
	if !found {
		return time.Time{}, length
	}
	at, err := time.Parse(time.RFC3339Nano, string(word))
	if err != nil {
		return time.Time{}, length
	}
	n, _ := r.Discard(len(word) + 1)
	return at.Truncate(time.Second), length - int64(n)
}

// joined takes the pieces of an output together, up to where they end or make no sense.
func joined(from io.Reader) []byte {
	var all bytes.Buffer
	_ = frames(from, false, func(p container.Piece) error { all.Write(p.Text); return nil }) // what came is what there is
	return all.Bytes()
}
