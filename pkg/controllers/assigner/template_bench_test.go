package assigner_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// noObjects: the scores of the benchmark need none.
type noObjects struct{}

func (noObjects) Digest(string, []string) (string, error) { return "", nil }

// largeTemplate is a score of 200 KB that differs on each device.
func largeTemplate(b *testing.B, version int) assignment.Deployment {
	b.Helper()
	env := []map[string]string{{"name": "NAME", "value": "${device.name}"}, {"name": "SITE", "value": "${device.labels.site}"}, {"name": "VERSION", "value": fmt.Sprint(version)}}
	for i := range 200 {
		env = append(env, map[string]string{"name": fmt.Sprint("TEXT_", i), "value": strings.Repeat("x", 1000)})
	}
	data, err := json.Marshal(map[string]any{"services": []any{map[string]any{"name": "web", "image": "localhost/web:1", "env": env}}})
	if err != nil {
		b.Fatal(err)
	}
	v := acceptance.Rules{}.Evaluate(&v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: v1alpha1.DeploymentSpec{Score: v1alpha1.Score{Type: score.TypePodmanV0, Data: runtime.RawExtension{Raw: data}}},
	}, nil, noObjects{})
	if v.Template == nil {
		b.Fatal(v.Message)
	}
	return assignment.Deployment{DeploymentRef: wire.DeploymentRef{Namespace: "shop", Name: "web"}, Accepted: true, Entry: v.Entry, Body: v.Body, Template: v.Template, At: time.Now()}
}

// BenchmarkLargeTemplate changes a score of 200 KB that is another one on each of 10,000 devices,
// and reports how long somebody who asks for a manifest, or reports, waited at most.
func BenchmarkLargeTemplate(b *testing.B) {
	const devices = 10_000
	table := assignment.NewTable(nil)
	for i := range devices {
		table.SetDevice(assignment.Device{Name: fmt.Sprint("edge-", i), Labels: map[string]string{"site": fmt.Sprint(i % 100)}})
	}
	table.Settle()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		d := largeTemplate(b, i)
		longest, end := watchLock(table)
		b.StartTimer()
		table.SetDeployment(d)
		for more := true; more; {
			_, more = table.Render()
		}
		b.StopTimer()
		end()
		b.ReportMetric(float64(longest.Load())/1e6, "max-wait-ms")
		b.StartTimer()
	}
}

// watchLock asks the table again and again until end is called.
func watchLock(table *assignment.Table) (longest *atomic.Int64, end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	longest = &atomic.Int64{}
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
			}
			began := time.Now()
			if n%2 == 0 {
				table.Manifest("edge-17")
			} else {
				table.RemoveState(assignment.Key{Device: "edge-17"})
			}
			longest.Store(max(longest.Load(), int64(time.Since(began))))
		}
	}()
	return longest, func() { close(stop); <-done }
}
