package attack_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// attackers' devices and what is about them have this in their names.
const attackerPrefix = "attacker-"

// look is everything that an attacker must not change.
type look struct {
	// Buckets is the content of every bucket.
	Buckets map[string]string
	// Devices and Deployments are the objects of the API.
	Devices, Deployments map[string]string
	// Manifests is what the victims are told to run.
	Manifests map[string]string
	// Unasked is what the victims received without having asked.
	Unasked []string
	// Connections are the victims that are connected.
	Connections []string
}

// look looks.
func (s *site) look(t testing.TB, all []*victim) look {
	t.Helper()
	l := look{Buckets: map[string]string{}, Devices: map[string]string{}, Deployments: map[string]string{}, Manifests: map[string]string{}}
	ctx := t.Context()
	for _, kv := range []jetstream.KeyValue{s.ready.Buckets.DesiredState, s.ready.Buckets.Info, s.ready.Buckets.State, s.ready.Buckets.Heartbeat} {
		must(t, bus.Load(ctx, kv, func(key string, value []byte) {
			if !strings.Contains(key, attackerPrefix) {
				l.Buckets[kv.Bucket()+" "+key] = string(value)
			}
		}))
	}
	s.lookAtObjects(ctx, t, &l)
	for _, v := range all {
		must(t, v.snapshots.Wait(ctx))
		m := *v.manifest(1)
		l.Manifests[v.name] = fmt.Sprintf("%s %+v", m.Version, m.Entries)
		v.mu.Lock()
		l.Unasked = append(l.Unasked, v.unasked...)
		v.mu.Unlock()
		if v.conn.IsConnected() {
			l.Connections = append(l.Connections, v.name)
		}
	}
	return l
}

func (s *site) lookAtObjects(ctx context.Context, t testing.TB, l *look) {
	t.Helper()
	devices, err := s.client.Devices().List(ctx, metav1.ListOptions{})
	must(t, err)
	for _, d := range devices.Items {
		if !strings.HasPrefix(d.Name, attackerPrefix) {
			l.Devices[d.Name] = show(t, d.Labels, d.Spec)
		}
	}
	deployments, err := s.client.Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	must(t, err)
	for _, d := range deployments.Items {
		if !strings.HasPrefix(d.Name, attackerPrefix) {
			l.Deployments[d.Namespace+"/"+d.Name] = show(t, d.Spec, d.Status.Aggregate)
		}
	}
}

func show(t testing.TB, parts ...any) string {
	t.Helper()
	data, err := json.Marshal(parts)
	must(t, err)
	return string(data)
}

// unchanged fails unless everything is as it was.
func (s *site) unchanged(t testing.TB, all []*victim, before look) look {
	t.Helper()
	after := s.look(t, all)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("what belongs to others changed (-before +after):\n%s", diff)
	}
	return after
}

// refusal names a counter of package refusals.
func refusal(where, reason string) string {
	return fmt.Sprintf("fleet_refusals_total{reason=%q,where=%q}", reason, where)
}

// answered names the counter of the device API's answers.
func answered(kind wire.Kind, code wire.RefusalCode) string {
	return fmt.Sprintf("fleet_device_requests_total{kind=%q,result=%q}", kind, code)
}

// counted waits until each counter is higher than it was.
func (s *site) counted(t testing.TB, before map[string]float64, names []string) {
	t.Helper()
	if len(names) == 0 {
		return
	}
	eventually(t, "counting the refusals", func() error {
		now := s.scrape(t)
		for _, name := range names {
			if now[name] <= before[name] {
				return fmt.Errorf("%s is %g, as before", name, now[name])
			}
		}
		return nil
	})
}
