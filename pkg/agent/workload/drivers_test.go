package workload_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ref = wire.DeploymentRef{Namespace: "shop", Name: "web"}

func drivers(t *testing.T) workload.Drivers {
	t.Helper()
	d, err := workload.NewDrivers(driver.New(driver.Config{}), &workloadtest.Files{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What an agent says that it can do follows from its drivers.
func TestCapabilitiesFollowFromDrivers(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]string{"score/FileV0", "score/PodmanV0"}, drivers(t).Capabilities()); diff != "" {
		t.Error(diff)
	}
	if can := (workload.Drivers{}).Capabilities(); can == nil || len(can) > 0 {
		t.Errorf("an agent without drivers says %v", can)
	}
}

func TestParseFindsTheDriver(t *testing.T) {
	t.Parallel()
	for scoreType, body := range map[string]string{
		"PodmanV0": `{"type":"PodmanV0","data":{"services":[{"name":"a","image":"localhost/a"}]}}`,
		"FileV0":   `{"type":"FileV0","data":{"content":"x"}}`,
	} {
		d, w, err := drivers(t).Parse(ref, []byte(body))
		if err != nil || w == nil || d.About().Types[0] != scoreType {
			t.Errorf("%s: %v", scoreType, err)
		}
	}
	for name, tc := range map[string]struct {
		body string
		want error
		text string
	}{
		"unknown type": {`{"type":"HelmV9","data":{}}`, score.ErrUnknownType, `"HelmV9": this agent knows FileV0, PodmanV0; update it`},
		"bad data":     {`{"type":"PodmanV0","data":{}}`, score.ErrInvalid, ""},
		"no score":     {`[]`, wire.ErrPayload, ""},
		"nothing":      {``, wire.ErrPayload, ""},
	} {
		if _, _, err := drivers(t).Parse(ref, []byte(tc.body)); !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATypeHasOneDriver(t *testing.T) {
	t.Parallel()
	a, b := &workloadtest.Files{}, &workloadtest.Files{}
	if d, err := workload.NewDrivers(a, b); !errors.Is(err, workload.ErrDrivers) || d != nil {
		t.Errorf("two drivers of one name: %v", err)
	}
	if _, err := workload.NewDrivers(a, renamed{b}); !errors.Is(err, workload.ErrDrivers) || !strings.Contains(err.Error(), "files and other take scores of type FileV0") {
		t.Errorf("two drivers of one type: %v", err)
	}
}

// renamed is the same driver under another name.
type renamed struct{ *workloadtest.Files }

func (r renamed) About() workload.About {
	about := r.Files.About()
	about.Name = "other"
	return about
}
