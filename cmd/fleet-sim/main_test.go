package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGroups(t *testing.T) {
	t.Parallel()
	sizes := []int{2, 0, 1}
	for i, want := range []int{0, 0, 2, 3, 3} {
		if got := groupOf(i, sizes); got != want {
			t.Errorf("device %d is in group %d, want %d", i, got, want)
		}
	}
}

func TestFailShareIsExact(t *testing.T) {
	t.Parallel()
	const devices = 1000
	for share, want := range map[float64]int{0: 0, 0.25: devices / 4, 1: devices} {
		failed := 0
		for i := range devices {
			if fails(i, share) {
				failed++
			}
		}
		if failed != want {
			t.Errorf("share %v: %d of %d fail", share, failed, devices)
		}
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"--devices":     {"--devices", "0"},
		"--fail-share":  {"--fail-share", "2"},
		"add up to":     {"--devices", "3", "--group-sizes", "2,2"},
		"reading a tok": {},
	}
	for want, args := range tests {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"--server", "https://127.0.0.1:1", "--token-file", "/nonexistent"}, args...), &out, &out)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v", args, err)
		}
	}
}
