//go:build linux

package durability_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
)

func TestMain(m *testing.M) {
	capture.Install(slog.New(slog.DiscardHandler))
	if os.Getenv(envWriterDir) != "" {
		fmt.Fprintln(os.Stderr, asWriter())
		os.Exit(1)
	}
	os.Exit(m.Run())
}
