package deviceapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// BenchmarkDoor has devices report all at the same time, each once its last report is
// answered, and measures how long they wait: the median and the 99th percentile.
func BenchmarkDoor(b *testing.B) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	for _, devices := range []int{10, 50} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			d := newDoor(b)
			var conns []*nats.Conn
			for i := range devices {
				name := fmt.Sprintf("bench-%d", i)
				d.manifests.mu.Lock()
				d.manifests.manifests[name] = wire.Manifest{Version: wire.Version{Epoch: "e1", Term: 3, Seq: 5}, Complete: true}
				d.manifests.mu.Unlock()
				conns = append(conns, d.connect(name))
			}
			payload, err := json.Marshal(wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning})
			if err != nil {
				b.Fatal(err)
			}
			waits := make([][]time.Duration, devices)
			b.ResetTimer()
			var working sync.WaitGroup
			for i, c := range conns {
				working.Go(func() {
					m := func() *nats.Msg {
						m := nats.NewMsg(fmt.Sprintf("fleet.v1.up.bench-%d.state", i))
						m.Header.Set(wire.HeaderSession, brokertest.Session)
						m.Data = payload
						return m
					}
					for range max(1, b.N/devices) {
						begin := time.Now()
						if _, err := c.RequestMsg(m(), time.Minute); err != nil {
							b.Error(err)
							return
						}
						waits[i] = append(waits[i], time.Since(begin))
					}
				})
			}
			working.Wait()
			b.StopTimer()
			all := slices.Sorted(slices.Values(slices.Concat(waits...)))
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "µs/median")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "µs/p99")
		})
	}
}
