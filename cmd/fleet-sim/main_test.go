package main

import (
	"bytes"
	"encoding/xml"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
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

func TestSharesAreExact(t *testing.T) {
	t.Parallel()
	const devices = 1000
	for share, want := range map[float64]int{0: 0, 0.25: devices / 4, 1: devices} {
		failed := 0
		for i := range devices {
			if has(i, share) {
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
		"--flap-share":  {"--flap-share", "-1"},
		"--flap-every":  {"--flap-every", "0s"},
		"--storm-every": {"--storm-every", "-1s"},
		"--enroll-at-o": {"--enroll-at-once", "0"},
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

// A run that may not have enough open files says so at once, and how to get them.
func TestRoomForDevices(t *testing.T) {
	t.Parallel()
	o := &options{devices: 10000, atOnce: 16}
	if err := haveRoom(o, filesOf(o)); err != nil {
		t.Error(err)
	}
	err := haveRoom(o, 1024)
	for _, want := range []string{"--devices 10000", "may have 1024", "ulimit -n 10132"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v does not say %q", err, want)
		}
	}
	if openFiles() < 100 {
		t.Errorf("the limit is %d", openFiles())
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--server", "https://127.0.0.1:1", "--token-file", "/nonexistent", "--devices", "2000000000"}, &out, &out); err == nil || !strings.Contains(err.Error(), "open files") {
		t.Errorf("a run of too many devices: %v", err)
	}
}

// Each group has its share of the devices that fail and of those that flap, which are
// always the same ones.
func TestFleetOfTheOptions(t *testing.T) {
	t.Parallel()
	o := &options{
		devices: 20, groupSizes: []int{10, 5}, groupLabel: "rack", namePrefix: "edge", server: "https://gateway:8443",
		failShare: 0.2, flapShare: 0.4, flapEvery: time.Minute, atOnce: 3, delay: time.Second,
	}
	fleet, err := newFleet(o, []string{"a", "b"}, &sim.Latencies{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	type share struct{ devices, fail, flap int }
	got, names := map[string]share{}, map[string]bool{}
	for _, d := range fleet.Devices {
		key := d.Labels["rack"] + " " + d.Token
		s := got[key]
		s.devices++
		if d.Fail {
			s.fail++
		}
		if d.Flap == o.flapEvery {
			s.flap++
		}
		got[key], names[d.Config.Device] = s, true
		if d.Server != o.server || d.Config.Delay != o.delay {
			t.Errorf("%s is of %s, with %s", d.Config.Device, d.Server, d.Config.Delay)
		}
	}
	want := map[string]share{"g1 a": {10, 2, 4}, "g2 b": {5, 1, 2}, " a": {5, 1, 2}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(share{})); diff != "" {
		t.Errorf("groups, tokens and shares (-want +got):\n%s", diff)
	}
	if len(names) != o.devices || !names["edge-1"] || !names["edge-20"] || fleet.AtOnce != o.atOnce {
		t.Errorf("%d names, %d at once", len(names), fleet.AtOnce)
	}
}

// What a run that has only begun, or has no devices synced yet, looks like.
func TestTableAndPictureOfAShortRun(t *testing.T) {
	t.Parallel()
	r := &rehearsal{fleet: &sim.Fleet{Devices: make([]*sim.Device, 2)}, latencies: &sim.Latencies{}, storms: []time.Duration{time.Second}}
	r.samples = []sample{{at: 0}, {at: 2 * time.Second, enrolled: 2, synced: 1, manifests: 1}}
	var out bytes.Buffer
	r.table(&out)
	for _, want := range []string{"p99", "enrolled      0", "synced", "applied"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
	var svg struct {
		Lines []struct {
			Points string `xml:"points,attr"`
		} `xml:"polyline"`
	}
	if err := xml.Unmarshal(r.picture(), &svg); err != nil || len(svg.Lines) != 2 {
		t.Fatalf("the picture has %d lines, %v", len(svg.Lines), err)
	}
	if got, want := svg.Lines[1].Points, "70.0,350.0 790.0,200.0"; got != want {
		t.Errorf("the line of synced devices is %s, want %s", got, want)
	}
}
