package broker

import (
	"fmt"
	"log/slog"
)

// natsLog leads the log of the NATS server into slog. The text of a NATS
// message is free form, so it becomes an attribute of a constant message.
type natsLog struct{ log *slog.Logger }

const natsMessage = "nats"

// Noticef implements server.Logger; notices are details of starting and stopping.
func (l natsLog) Noticef(format string, v ...any) {
	l.log.Debug(natsMessage, "text", fmt.Sprintf(format, v...))
}

// Warnf implements server.Logger.
func (l natsLog) Warnf(format string, v ...any) {
	l.log.Warn(natsMessage, "text", fmt.Sprintf(format, v...))
}

// Fatalf implements server.Logger. It must not end the process: the server
// that embeds NATS decides.
func (l natsLog) Fatalf(format string, v ...any) {
	l.log.Error(natsMessage, "text", fmt.Sprintf(format, v...))
}

// Errorf implements server.Logger.
func (l natsLog) Errorf(format string, v ...any) {
	l.log.Error(natsMessage, "text", fmt.Sprintf(format, v...))
}

// Debugf implements server.Logger; it is off in Start.
func (l natsLog) Debugf(format string, v ...any) {
	l.log.Debug(natsMessage, "text", fmt.Sprintf(format, v...))
}

// Tracef implements server.Logger; it is off in Start, since traces contain payloads.
func (l natsLog) Tracef(format string, v ...any) {
	l.log.Debug(natsMessage, "text", fmt.Sprintf(format, v...))
}
