package interpreter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// maxText bounds what is shown of an interpreter's words.
const maxText = wire.MaxError / 2

// client asks one interpreter.
type client struct {
	socket string
	owner  int
}

var errNoAnswer = errors.New("it closed the connection without an answer")

// ask asks once more when the program ended with a connection that nobody had served.
func (c *client) ask(ctx context.Context, r *interpreter.Request) (a interpreter.Answer, err error) {
	r.Version = interpreter.Version
	for range 2 {
		if a, err = c.exchange(ctx, r); !errors.Is(err, errNoAnswer) {
			break
		}
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return a, fmt.Errorf("it does not answer: %w", err)
	case err != nil:
		return a, err
	case a.Error != nil:
		return a, &interpreter.Error{Code: a.Error.Code, Message: plan.Cut(a.Error.Message, maxText)}
	}
	return a, nil
}

func (c *client) exchange(ctx context.Context, r *interpreter.Request) (a interpreter.Answer, err error) {
	if err := checkDirectory(c.socket, c.owner); err != nil {
		return a, err
	}
	dialed, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return a, errors.Unwrap(err) // the socket is named already
	}
	defer dialed.Close()
	conn, ok := dialed.(*net.UnixConn)
	if !ok {
		return a, errors.New("it is no socket of the device's own")
	}
	if err := c.checkPeer(conn); err != nil {
		return a, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return a, brief(err)
	}
	return read(conn)
}

// checkPeer: the socket is systemd's, which listens as root. A program that listens by
// itself has the account that it runs as, and could have been started by anybody.
func (c *client) checkPeer(conn *net.UnixConn) error {
	uid, err := interpreter.Peer(conn)
	if err == nil && uid != 0 && uid != c.owner {
		return fmt.Errorf("account %d listens there, and root must: let a socket unit of systemd listen", uid)
	}
	return err
}

func read(in io.Reader) (a interpreter.Answer, err error) {
	bounded := &io.LimitedReader{R: in, N: interpreter.MaxAnswer + 1}
	line, err := bufio.NewReader(bounded).ReadBytes('\n')
	switch {
	case bounded.N <= 0:
		return a, fmt.Errorf("its answer is longer than %d bytes", interpreter.MaxAnswer)
	case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) == 0:
		return a, errNoAnswer
	case err != nil && !errors.Is(err, io.EOF):
		return a, brief(err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("its answer is no line of the protocol: %s", printable.Squeeze(err.Error()))
	}
	return a, nil
}

// brief leaves the names of the two ends out.
func brief(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
