//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
)

// TestDemo runs the demo as a person does: twice, with a look at the page, and
// down again.
func TestDemo(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	if _, err := lab.Open(t.Context(), lab.Options{}); errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "demo")
	demo := func(command string) string {
		t.Helper()
		var out strings.Builder
		err := run(context.WithoutCancel(t.Context()), []string{command, "--dir", dir}, io.MultiWriter(&out, t.Output()), t.Output())
		if err != nil {
			t.Fatalf("demo %s: %v", command, err)
		}
		return out.String()
	}
	t.Cleanup(func() {
		demo("down")
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the demo's directory is left: %v", err)
		}
		if page, err := get(context.WithoutCancel(t.Context()), pageURL()); err == nil {
			t.Errorf("the container answers after down: %q", page)
		}
	})

	checkSummary(t, demo("up"))
	start := time.Now()
	again := demo("up")
	checkSummary(t, again)
	if !strings.Contains(again, "enrolled already") {
		t.Error("the second run enrolled again")
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("the second run took %s", took)
	}
}

// checkSummary looks for what a person looks for: the page, the device and the
// deployment.
func checkSummary(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{"Hello from " + lab.HelloImage, deviceName, "PodmanV0", "make demo-down"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo doesn't print %q", want)
		}
	}
}
