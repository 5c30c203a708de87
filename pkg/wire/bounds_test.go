package wire_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// What is exactly as long as it may be is taken.
func TestBoundsAreInclusive(t *testing.T) {
	t.Parallel()
	if _, err := wire.DecodeState([]byte(`{"namespace":"a","name":"b","phase":"Failed","error":"` + strings.Repeat("e", wire.MaxError) + `"}`)); err != nil {
		t.Errorf("an error text of %d bytes: %v", wire.MaxError, err)
	}
	const typed = 256
	padded := strings.Repeat(" ", typed-len(shownPrint)) + shownPrint
	if digits, err := wire.ParseFingerprint(padded); err != nil || !wire.MatchFingerprint(fullPrint, digits) {
		t.Errorf("a fingerprint of %d characters: %v", len(padded), err)
	}
	if _, err := wire.ParseFingerprint(" " + padded); !errors.Is(err, wire.ErrFingerprint) {
		t.Errorf("a fingerprint of %d characters: %v", len(padded)+1, err)
	}
}

// An error about a token that is as long as one may be is not about its length.
func TestLongestTokenIsRead(t *testing.T) {
	t.Parallel()
	const longest = 256
	for length, says := range map[int]string{longest: "must have the form", longest + 1: "too long"} {
		if _, err := wire.ParseToken(strings.Repeat("x", length)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%d characters: %v, want %q", length, err, says)
		}
	}
}

// A key comes from outside: an error shows as much of it as a good one could have.
func TestErrorsCutKeys(t *testing.T) {
	t.Parallel()
	const longest = 4 * (wire.MaxNameLength + 1)
	_, _, err := wire.ParseStateKey(strings.Repeat("x", 2*longest))
	if err == nil || strings.Count(err.Error(), "x") != longest {
		t.Errorf("the error is %v, want %d bytes of the key", err, longest)
	}
}

// Both sides build these from the same parts: another form would be another
// version of the protocol.
func TestFormsOfDerivedTexts(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, time.November, 28, 9, 0, 0, 5, time.FixedZone("CET", 3600))
	if got, want := string(wire.SignedTimePayload([]byte{0xab, 1}, at)), "fleet signed time\x00ab01\x002026-11-28T08:00:00.000000005Z"; got != want {
		t.Errorf("the signed time is %q, want %q", got, want)
	}
	session := "0123456789abcdef"
	if got, want := wire.SessionLabel(session), wire.Sum([]byte("fleet session\x00" + session)).String()[:12]; got != want {
		t.Errorf("the session is called %q, want %q", got, want)
	}
}
