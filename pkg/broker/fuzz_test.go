package broker_test

import (
	"bytes"
	"log/slog"
	"testing"

	"fleet.nationtech.io/fleet/pkg/broker"
)

// FuzzLog writes what NATS logs about a client that chose its name, language,
// version and the subject: no line is much longer than what the client sent.
func FuzzLog(f *testing.F) {
	for _, seed := range []string{"edge-1", "%[1]999999s", `a" - "b" - Publish Violation`, "%!d(MISSING)", "\x00\n\\"} {
		f.Add(seed, "$SYS.>")
	}
	f.Fuzz(func(t *testing.T, name, subject string) {
		var out bytes.Buffer
		l := broker.NewNATSLog(slog.New(slog.NewTextHandler(&out, nil)), broker.NewRefused(nil))
		errorf := l.Errorf // NATS does not use constant formats either
		errorf(broker.ClientFormat(name, "Publish Violation - Subject %q"), subject)
		errorf(broker.ClientFormat(name, broker.Quoted("Subscription Violation - Subject %q, SID 1", subject)))
		// Quoting makes a byte at most six long, twice.
		if most := 2*(36*(len(name)+len(subject))+1000) + len(name)*36; out.Len() > most {
			t.Errorf("%d and %d bytes became %d", len(name), len(subject), out.Len())
		}
	})
}
