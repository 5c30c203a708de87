package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/wire"
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

func TestFailShare(t *testing.T) {
	t.Parallel()
	const devices = 10_000
	ref := wire.DeploymentRef{Namespace: "a", Name: "b"}
	for share, want := range map[float64]int{0: 0, 0.1: devices / 10, 1: devices} {
		failed := 0
		fleet := newFleet(&options{devices: devices, failShare: share, namePrefix: "sim"}, []string{"t"}, nil)
		for _, d := range fleet.devices {
			if d.fails(ref) {
				failed++
			}
		}
		if failed < want*9/10 || failed > want*11/10 {
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
