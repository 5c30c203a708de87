// Package capture leads the process-wide loggers of the libraries that the server
// links into its own log.
package capture

import (
	"context"
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// Install leads the process-wide loggers of Kubernetes' libraries (klog) and
// of kine (logrus) into log. Their informational messages are details to
// fleet, so they come out at level debug.
func Install(log *slog.Logger) {
	klog.SetSlogLogger(slog.New(quieter{log.With("component", "kubernetes").Handler()}))
	logrus.SetOutput(io.Discard)
	logrus.AddHook(logrusHook{log.With("component", "kine")})
}

// quieter turns info into debug.
type quieter struct{ slog.Handler }

func (q quieter) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, lower(l))
}

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }

func lower(l slog.Level) slog.Level {
	if l == slog.LevelInfo {
		return slog.LevelDebug
	}
	return l
}

// logrusHook passes every logrus entry on.
type logrusHook struct{ log *slog.Logger }

// Levels implements logrus.Hook.
func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (h logrusHook) Fire(e *logrus.Entry) error {
	h.log.Log(context.Background(), slogLevel(e.Level), "kine", "text", e.Message)
	return nil
}

func slogLevel(l logrus.Level) slog.Level {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		return slog.LevelError
	case logrus.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}
