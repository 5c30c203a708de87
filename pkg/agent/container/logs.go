package container

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// LogOptions say what of a container's output is read.
type LogOptions struct {
	// Follow goes on until the container ends.
	Follow bool
	// Tail is how many of the lines are read that there are already, the last ones;
	// negative for all.
	Tail int
	// Since leaves out what was written until then, by the system's clock; zero for
	// nothing.
	Since time.Time
}

// Piece is a part of a container's output: a line, or a part of a long one.
type Piece struct {
	// At is when it was written, by the system's clock at that time, in whole seconds;
	// zero when the runtime does not tell.
	At time.Time
	// Stderr: it was written as an error.
	Stderr bool
	// Text is valid until whoever got the Piece returns.
	Text []byte
}

// maxLastRead bounds how much is read to find the last bytes: lines may be long, and the
// runtime's word on how many there are may be wrong.
const maxLastRead = 16 << 20

// errEnough ends the reading of an output.
var errEnough = errors.New("enough was read")

// LastOutput returns the end of what a container wrote, of both streams: the last lines,
// and of those at most limit bytes. It returns ErrNotFound among others. What was read
// before an error is returned with it.
func LastOutput(ctx context.Context, r Runtime, id string, lines, limit int) ([]byte, error) {
	var last bytes.Buffer
	read := 0
	err := r.Logs(ctx, id, LogOptions{Tail: lines}, func(p Piece) error {
		last.Write(p.Text)
		if last.Len() > 2*limit { // seldom, so that little is moved
			last.Next(last.Len() - limit)
		}
		if read += len(p.Text); read > maxLastRead {
			return errEnough
		}
		return nil
	})
	last.Next(max(0, last.Len()-limit))
	if errors.Is(err, errEnough) {
		err = nil
	}
	return last.Bytes(), err
}

// LastLines are the last lines of a text.
func LastLines(text []byte, lines int) []byte {
	end := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; lines > 0; lines-- {
		if end = bytes.LastIndexByte(text[:end], '\n'); end < 0 {
			return text
		}
	}
	return text[end+1:]
}
