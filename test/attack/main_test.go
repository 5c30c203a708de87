// Package attack_test attacks a running server the way an enrolled device can:
// with a certificate that is valid and a client that follows no rules. After
// each attack nothing of another device may have been read or changed, every
// request of other devices must have been answered, and what was refused must
// show in the metrics.
//
// FLEET_ATTACK=full makes floods longer and larger, and compares how long other
// devices waited with how long they wait otherwise.
package attack_test

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	waitTimeout  = 20 * time.Second
	pollInterval = 10 * time.Millisecond
)

// scale is how large the attacks are.
type scale struct {
	// strict compares response times.
	strict bool
	// samples is how many requests of other devices are measured at least, before
	// and during each attack.
	samples                         int
	flood                           time.Duration
	subjects, connections, enrolled int
}

// full is `make soak`; small is for every day.
var (
	full  = scale{strict: true, samples: 4 * stretch, flood: 10 * time.Second, subjects: 10_000, connections: 1000, enrolled: 1000}
	small = scale{samples: 40, flood: time.Second, subjects: 1000, connections: 50, enrolled: 1000}
)

func scaled() scale {
	if os.Getenv("FLEET_ATTACK") == "full" {
		return full
	}
	return small
}

func TestMain(m *testing.M) {
	// The libraries' logs are process-wide and would end up between the tests'.
	capture.Install(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// eventually waits until check returns nil.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	wait.For(t, what, waitTimeout, pollInterval, check)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
