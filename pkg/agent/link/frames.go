package link

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// maxMessage bounds a message in bytes, with its headers. A server of fleet lets
	// wire.MaxReply through.
	maxMessage = wire.MaxReply + 4<<10
	// maxLine bounds a line of the protocol; the longest one describes the server.
	maxLine = 32 << 10
	// maxDigits is more than maxMessage has, and less than a number has room for.
	maxDigits = 9
)

// ErrProtocol: the server sends what a server of fleet does not.
var ErrProtocol = errors.New("the server does not speak the protocol of a fleet server, or says more than one would")

// frames follows what a server sends, as far as its length goes. The client takes
// lines of any length, and as much memory for a message as the server says that
// it needs.
//
// It is strict where the client is not, so that the two agree about where a
// message begins. Its zero value is the beginning of a connection.
type frames struct {
	// line is the beginning of a line.
	line []byte
	// skip are bytes of a message that are still to come.
	skip int
	// end: a message is over, and its line is not.
	end bool
}

// follow reads on. Once it has returned an error, it is of no use.
func (f *frames) follow(data []byte) error {
	for len(data) > 0 {
		if f.skip > 0 {
			n := min(f.skip, len(data))
			f.skip, data = f.skip-n, data[n:]
			continue
		}
		part, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		if !f.end {
			f.line = append(f.line, part...)
		}
		switch {
		case len(f.line) > maxLine:
			return ErrProtocol
		case whole && f.end:
			f.end = false
		case whole:
			if err := f.operation(string(f.line)); err != nil {
				return err
			}
			f.line = f.line[:0]
		}
	}
	return nil
}

// operation reads a line without its line feed.
func (f *frames) operation(line string) error {
	line = strings.TrimSuffix(line, "\r")
	name, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	args := strings.Fields(rest)
	if strings.ContainsAny(line, "\r") {
		return ErrProtocol
	}
	switch strings.ToUpper(name) {
	case "PING", "PONG", "+OK":
		return nil
	case "INFO", "-ERR":
		if len(args) == 0 {
			return ErrProtocol // the client would read on
		}
		return nil
	case "MSG":
		return f.message(args, 3)
	case "HMSG":
		return f.message(args, 4)
	}
	return ErrProtocol
}

// message takes the length of a message, which is the last of the arguments: as
// many as given, or one more, the subject for a reply.
func (f *frames) message(args []string, fewest int) error {
	if len(args) != fewest && len(args) != fewest+1 {
		return ErrProtocol
	}
	text := args[len(args)-1]
	size, err := strconv.ParseUint(text, 10, 32)
	if err != nil || len(text) > maxDigits || size > maxMessage {
		return ErrProtocol
	}
	// The client takes one byte behind the message for granted, and waits for the
	// end of the line then.
	f.skip, f.end = int(size)+1, true
	return nil
}
