package wire_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	fullPrint  = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	shownPrint = "9f86-d081-884c-7d65-9a2f-eaa0-c55a-d015"
)

func TestFingerprintIsShownInGroups(t *testing.T) {
	t.Parallel()
	if got := wire.ShowFingerprint(fullPrint); got != shownPrint {
		t.Errorf("it is shown as %q, want %q", got, shownPrint)
	}
	if got := wire.ShowFingerprint("none"); got != "none" {
		t.Errorf("what is no fingerprint is shown as %q", got)
	}
}

func TestTypedFingerprints(t *testing.T) {
	t.Parallel()
	for typed, match := range map[string]bool{
		fullPrint: true, shownPrint: true, strings.ToUpper(shownPrint): true, strings.ReplaceAll(shownPrint, "-", ""): true,
		strings.ReplaceAll(shownPrint, "-", ":"): true, " " + strings.ReplaceAll(shownPrint, "-", " ") + " ": true,
		// Keys that look alike, at both ends for example.
		"9f86-d081-884c-7d65-9a2f-eaa0-c55a-d016":                          false,
		"9f86-d081-884c-7d65-0a2f-eaa0-c55a-d015":                          false,
		"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a09": false,
	} {
		digits, err := wire.ParseFingerprint(typed)
		if err != nil || wire.MatchFingerprint(fullPrint, digits) != match {
			t.Errorf("%q: %v, match %v, want %v", typed, err, !match, match)
		}
	}
	for _, typed := range []string{
		"", "9f86", shownPrint[:len(shownPrint)-1], shownPrint[5:], shownPrint + "-a3bf", fullPrint + "00", "x" + shownPrint[1:],
		"9f86…d015", strings.Repeat("0", 1<<16), strings.Repeat("-", 32), "９f86-d081-884c-7d65-9a2f-eaa0-c55a-d015",
	} {
		if digits, err := wire.ParseFingerprint(typed); !errors.Is(err, wire.ErrFingerprint) {
			t.Errorf("%.80q is taken for %q (%v)", typed, digits, err)
		}
	}
	if wire.MatchFingerprint(fullPrint, fullPrint[:4]) || wire.MatchFingerprint("", "") {
		t.Error("a part of a fingerprint matches")
	}
}

// Whatever is shown can be typed, and matches its own key alone.
func TestShownFingerprintsMatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := digest().Draw(t, "a").String(), digest().Draw(t, "b").String()
		digits, err := wire.ParseFingerprint(wire.ShowFingerprint(a))
		if err != nil || !wire.MatchFingerprint(a, digits) || wire.MatchFingerprint(b, digits) != (a == b) {
			t.Fatalf("%s is shown as %s, which matches: %v, %v", a, wire.ShowFingerprint(a), err, digits)
		}
	})
}

func FuzzParseFingerprint(f *testing.F) {
	for _, seed := range []string{fullPrint, shownPrint, "", "9f86", strings.Repeat("-", 300)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		digits, err := wire.ParseFingerprint(typed)
		if err == nil && (len(digits) < 32 || strings.ToLower(digits) != digits) {
			t.Errorf("%q is taken for %q", typed, digits)
		}
	})
}
