package api_test

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// row is a line of the table at the end of a run: what, how often, and percentiles.
var row = regexp.MustCompile(`(?m)^ *(enrolled|synced|applied) +(\d+) +(\S+) +(\S+) +(\S+) +(\S+) *$`)

// A rehearsal with the programs as shipped: devices enroll, fail, flap, and come back after
// a storm; at the end there are percentiles, and a picture.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	const devices = 6
	u := user{t, start(t)}
	u.apply(strings.ReplaceAll(deployment("web"), "{site: a}", "{group: g1}"))
	token, err := u.s.Token(t.Context(), "--pre-approve", "--uses", fmt.Sprint(devices), "--allow-label", "group")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, picture := filepath.Join(dir, "token"), filepath.Join(dir, "fleet.svg")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	sim := filepath.Join(filepath.Dir(binary(t)), "fleet-sim")
	cmd := exec.CommandContext(t.Context(), sim, "--server", u.s.EnrollURL, "--token-file", file, "--devices", fmt.Sprint(devices), "--group-sizes", "4,2",
		"--fail-share", "0.5", "--flap-share", "0.17", "--flap-every", "500ms", "--storm-every", "3s", "--duration", "10s", "--picture", picture)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("fleet-sim: %v: %s", err, &stderr)
	}
	count := map[string]int{}
	for _, m := range row.FindAllStringSubmatch(stdout.String(), -1) {
		if count[m[1]], err = strconv.Atoi(m[2]); err != nil {
			t.Error(err)
		}
		for _, percentile := range m[3:] {
			if percentile == "0s" && m[1] != "applied" { // of nothing, that takes no time
				t.Errorf("a percentile of %s is %s", m[1], percentile)
			}
		}
	}
	// Everybody comes back after the first storm at least, while one flaps.
	if count["enrolled"] != devices || count["synced"] < 2*devices || count["applied"] < 4 {
		t.Errorf("the table says %v:\n%s", count, &stdout)
	}
	u.shows(stdout.String(), fmt.Sprintf("enrolled=%d ", devices), "p50", "p90", "p99", "max")
	const counts = "jsonpath={.status.aggregate.matchedDeviceCount} {.status.aggregate.succeeded} {.status.aggregate.failed}"
	if got := u.kubectl("get", "fleetdep", "web", "-o", counts); got != "4 2 2" {
		t.Errorf("matched, succeeded and failed are %s, want half of the group of four to fail", got)
	}
	drawn, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	var svg struct {
		Lines  []struct{} `xml:"polyline"`
		Storms []struct {
			Dashes string `xml:"stroke-dasharray,attr"`
		} `xml:"path"`
	}
	if err := xml.Unmarshal(drawn, &svg); err != nil {
		t.Fatal(err)
	}
	storms := 0
	for _, p := range svg.Storms {
		if p.Dashes != "" {
			storms++
		}
	}
	if len(svg.Lines) != 2 || storms < 2 {
		t.Errorf("the picture has %d lines and %d storms", len(svg.Lines), storms)
	}
	help, err := exec.CommandContext(t.Context(), sim, "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	u.shows(string(help), "ulimit -n", "--devices 10000", "open files")
}
