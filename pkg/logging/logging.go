// Package logging makes the root logger and leads the log output of the
// libraries that bring a logger of their own into it. Any command may import
// it.
package logging

import (
	"fmt"
	"io"
	"log/slog"

	"fleet.nationtech.io/fleet/pkg/printable"
)

// Formats of log output.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Formats and Levels are the values that New takes.
var (
	Formats = []string{FormatText, FormatJSON}
	Levels  = []string{"debug", "info", "warn", "error"}
)

// New returns a logger that writes to w. The format is FormatText or
// FormatJSON, the level debug, info, warn or error.
func New(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("unknown log level %q: use debug, info, warn or error", level)
	}
	w = printable.NewWriter(w) // JSON leaves some control characters as they are
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case FormatText:
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case FormatJSON:
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("unknown log format %q: use text or json", format)
}
