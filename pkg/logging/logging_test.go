package logging_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/logging"
)

func TestFormats(t *testing.T) {
	t.Parallel()
	var text, document bytes.Buffer
	for format, w := range map[string]*bytes.Buffer{logging.FormatText: &text, logging.FormatJSON: &document} {
		log, err := logging.New(w, format, "info")
		if err != nil {
			t.Fatal(err)
		}
		log.Info("a message", "snake_case", 7)
	}
	if !strings.Contains(text.String(), `msg="a message" snake_case=7`) {
		t.Errorf("text: %s", text.String())
	}
	var got map[string]any
	if err := json.Unmarshal(document.Bytes(), &got); err != nil || got["msg"] != "a message" || got["snake_case"] != 7.0 {
		t.Errorf("JSON: %s (%v)", document.String(), err)
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1, "WARN": 2} {
		var b bytes.Buffer
		log, err := logging.New(&b, logging.FormatText, level)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("x")
		log.Info("x")
		log.Warn("x")
		log.Error("x")
		if n := strings.Count(b.String(), "\n"); n != want {
			t.Errorf("level %s lets %d lines through, want %d", level, n, want)
		}
	}
}

func TestUnknownChoicesAreNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ format, level, says string }{
		{"xml", "info", `"xml": use text or json`},
		{"", "info", "use text or json"},
		{"text", "loud", `"loud": use debug, info, warn or error`},
		{"text", "", "use debug, info, warn or error"},
	} {
		if _, err := logging.New(nil, tc.format, tc.level); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("format %q, level %q: %v, want %q", tc.format, tc.level, err, tc.says)
		}
	}
}
