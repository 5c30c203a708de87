//go:build linux

package helper_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/helper"
)

// What an earlier agent made is isolated, with all else that podman has of it; the networks of
// others, and those for which it is decided, are left as they are.
func TestNetworksAreIsolated(t *testing.T) {
	t.Parallel()
	const label = "fleet.nationtech.io/network"
	network := func(driver, labels, options string) string {
		return `{"name":"x","id":"01","driver":"` + driver + `","subnets":[{"subnet":"10.89.0.0/24","gateway":"10.89.0.1"}],"created":"2026-01-01T00:00:00.5Z","labels":` + labels + options + `}`
	}
	const ours = `{"` + label + `":"shop_web"}`
	files := map[string]string{
		"shop_web.json":   network("bridge", ours, ``),
		"shop_mtu.json":   network("bridge", ours, `,"options":{"mtu":"1400"}`),
		"shop_done.json":  network("bridge", ours, `,"options":{"isolate":"true"}`),
		"shop_false.json": network("bridge", ours, `,"options":{"isolate":"false"}`),
		"somebody.json":   network("bridge", `{"a":"b"}`, ``),
		"vlan.json":       network("macvlan", ours, ``),
		"damaged.json":    `{"name":`,
		"empty.json":      ``,
		"netavark.lock":   ``,
	}
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	networks := helper.Networks{Dir: dir, Label: label}
	names, err := networks.Isolate()
	slices.Sort(names)
	if err != nil || !slices.Equal(names, []string{"shop_mtu", "shop_web"}) {
		t.Errorf("changed %v, %v", names, err)
	}
	if names, err := networks.Isolate(); err != nil || len(names) > 0 {
		t.Errorf("once more: changed %v, %v", names, err)
	}
	files["shop_web.json"] = network("bridge", ours, `,"options":{"isolate":"true"}`)
	files["shop_mtu.json"] = network("bridge", ours, `,"options":{"isolate":"true","mtu":"1400"}`)
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(want), decoded(string(got))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, nowhere := range []string{"", filepath.Join(dir, "none")} {
		if names, err := (helper.Networks{Dir: nowhere, Label: label}).Isolate(); err != nil || len(names) > 0 {
			t.Errorf("%q: changed %v, %v", nowhere, names, err)
		}
	}
}

// decoded is what a file of JSON says, or its text.
func decoded(text string) any {
	var v any
	if json.Unmarshal([]byte(text), &v) != nil {
		return text
	}
	return v
}
