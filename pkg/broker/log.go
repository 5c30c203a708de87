package broker

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Lines a second that NATS may log about connections, and how many at once. A
// device can cause one with every message.
const (
	logRate  = 20
	logBurst = 200
)

// natsLog leads the log of the NATS server into slog. The text of a NATS
// message is free form, so it becomes an attribute of a constant message.
type natsLog struct {
	log     *slog.Logger
	refused *refused
	limiter *rate.Limiter
}

func newNATSLog(log *slog.Logger, refused *refused) natsLog {
	return natsLog{log: log, refused: refused, limiter: rate.NewLimiter(logRate, logBurst)}
}

const natsMessage = "nats"

// chosen is a warning about what options turns on deliberately.
const chosen = "Clients that are not using \"TLS Handshake First\" option will fail to connect"

// Noticef implements server.Logger; notices are details of starting and stopping.
func (l natsLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l natsLog) Warnf(format string, v ...any) {
	if format == chosen {
		l.Noticef(format, v...)
		return
	}
	l.write(slog.LevelWarn, format, v)
}

// Fatalf implements server.Logger. It must not end the process: the server
// that embeds NATS decides.
func (l natsLog) Fatalf(format string, v ...any) { l.write(slog.LevelError, format, v) }

// Errorf implements server.Logger.
func (l natsLog) Errorf(format string, v ...any) { l.write(slog.LevelError, format, v) }

// Debugf implements server.Logger. It is not logged; it is on in Start because
// handshakes that time out or are no TLS are told here alone. The end of a
// connection is told with its reason, and so each client that says nothing.
func (l natsLog) Debugf(format string, v ...any) {
	silent := len(v) > 0 && v[len(v)-1] == server.AuthenticationTimeout
	if !silent && !refuses(format) {
		return // nearly all: NATS tells of each ping
	}
	l.refused.guard.Do(func() {
		_, id, text := cutClient(format)
		if id == 0 {
			return
		}
		if silent {
			text = server.AuthenticationTimeout.String()
		}
		l.refused.note(id, text)
	})
}

// Tracef implements server.Logger; it is off in Start, since traces contain payloads.
func (l natsLog) Tracef(format string, v ...any) { l.write(slog.LevelDebug, format, v) }

// read splits a message of NATS into what it says of the connection, and the rest.
func read(format string, v []any) (client string, id uint64, text string) {
	client, id, text = cutClient(format)
	if len(v) > 0 {
		text = fmt.Sprintf(text, v...)
	}
	return client, id, text
}

// write logs a message. NATS puts the name that a client gives itself into the
// format: a name like "%999999s" would make every line a megabyte long.
func (l natsLog) write(level slog.Level, format string, v []any) {
	// A goroutine of NATS calls, which would end the process.
	l.refused.guard.Do(func() { l.take(level, format, v) })
}

func (l natsLog) take(level slog.Level, format string, v []any) {
	client, id, text := read(format, v)
	l.refused.note(id, text)
	if id != 0 && !l.limiter.Allow() {
		return // it is counted
	}
	text = client + text
	if id != 0 {
		text = sessionIDs.ReplaceAllStringFunc(text, wire.SessionLabel)
	}
	l.log.Log(context.Background(), level, natsMessage, "text", text)
}

// sessionIDs are the ids of sessions: the names of connections, and parts of the
// subjects that they listen on. They are secrets.
var sessionIDs = regexp.MustCompile(`[0-9a-f]{16,64}`)
