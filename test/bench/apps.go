//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
)

// chained are services of which the later ones need earlier ones, with the port of each on the
// device.
var chained = []struct {
	name  string
	needs string
}{{"store", ""}, {"cache", ""}, {"api", "store"}, {"worker", "api"}, {"web", "api"}}

const chainedPort = 18200

// applications measures a Deployment of five services that need each other, and fifty
// Deployments on one device.
func (b *bench) applications(ctx context.Context) error {
	return withDir(func(dir string) error {
		s, err := b.newSite(ctx, dir, b.present())
		if err != nil {
			return err
		}
		err = errors.Join(b.chain(ctx, s), b.many(ctx, s))
		return errors.Join(err, s.close())
	})
}

// chain measures, by turns, `kubectl apply` until all five services answer, and a shell script
// that runs them with podman in the same order.
func (b *bench) chain(ctx context.Context, s *site) error {
	var apply, script []time.Duration
	var ratios []float64
	for range b.repeat {
		a, err := s.applyChain(ctx)
		if err != nil {
			return err
		}
		p, err := s.scriptChain(ctx)
		if err != nil {
			return err
		}
		apply, script, ratios = append(apply, a), append(script, p), append(ratios, a.Seconds()/p.Seconds())
	}
	ratio := median(ratios)
	b.report.add("five services with dependsOn: `kubectl apply` until all answer", milliseconds(median(apply)), "", true)
	b.report.add("the same by a script of `podman run`", milliseconds(median(script)), "", true)
	b.report.add("ratio of the two", fmt.Sprintf("%.2f", ratio), "≤ 1.2", ratio <= 1.2)
	return nil
}

func (s *site) applyChain(ctx context.Context) (time.Duration, error) {
	var services []string
	for i, c := range chained {
		depends := ""
		if c.needs != "" {
			depends = fmt.Sprintf(", dependsOn: [{service: %s, condition: Healthy}]", c.needs)
		}
		services = append(services, fmt.Sprintf("{name: %s, image: %q, ports: [{hostPort: %d, containerPort: %d}], readinessProbe: {httpGet: {port: %[4]d}, periodSeconds: 1}%s}",
			c.name, lab.HelloImage, chainedPort+i, lab.HelloPort, depends))
	}
	begin := time.Now()
	if _, err := s.server.Apply(ctx, deploymentOf("chain", strings.Join(services, ", "))); err != nil {
		return 0, err
	}
	for i := range chained {
		if err := s.answer(ctx, chainedPort+i); err != nil {
			return 0, err
		}
	}
	took := time.Since(begin)
	if _, err := s.server.Kubectl(ctx, "delete", "fleetdep", "chain"); err != nil {
		return 0, err
	}
	return took, s.silent(ctx, chainedPort)
}

// scriptChain waits for each container before it runs the next one, and times itself.
func (s *site) scriptChain(ctx context.Context) (time.Duration, error) {
	var script strings.Builder
	script.WriteString("begin=$(date +%s%N)\npodman network create chain >/dev/null\n")
	names := ""
	for i, c := range chained {
		fmt.Fprintf(&script, "podman run --detach --name %s --network chain --publish %d:%d %s >/dev/null\nuntil curl -sf -o /dev/null http://127.0.0.1:%[2]d/; do :; done\n",
			c.name, chainedPort+i, lab.HelloPort, lab.HelloImage)
		names += " " + c.name
	}
	script.WriteString("end=$(date +%s%N)\npodman rm --force --time 0" + names + " >/dev/null\npodman network rm chain >/dev/null\necho $((end - begin))")
	out, err := s.machine.OutputAs(ctx, lab.WorkloadUser, "sh", "-ec", script.String())
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(out) + "ns")
}

func deploymentOf(name, services string) string {
	return fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: %s, namespace: default},
  spec: {targetSelector: {}, score: {type: PodmanV0, data: {minReadySeconds: 0, services: [%s]}}}}`, name, services)
}

// deployments is how many of one service one device gets.
const deployments = 50

// many measures a device that runs many Deployments while nothing changes, and whether a change
// of one touches others.
func (b *bench) many(ctx context.Context, s *site) error {
	var documents []string
	for n := range deployments {
		documents = append(documents, deploymentOf(fmt.Sprintf("many-%d", n), fmt.Sprintf("{name: web, image: %q}", lab.HelloImage)))
	}
	if _, err := s.server.Apply(ctx, strings.Join(documents, "\n---\n")); err != nil {
		return err
	}
	if _, err := s.server.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=300s", "fleetdep", "--all"); err != nil {
		return err
	}
	before, after, err := whileIdle(ctx, b, settleTime, func() (rest, error) { return s.rest(ctx) })
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d Deployments of one service on a device: ", deployments)
	const mb = 1e6
	b.report.add(what+"memory of the agent (PSS)", fmt.Sprintf("%.1f MB", float64(after.pss)/mb), "≤ 24 MB", after.pss <= 24*mb)
	agent := b.share(after.parts[0] - before.parts[0])
	b.report.add(what+"processor of the agent when idle", fmt.Sprintf("%.2f %% of a core (with podman, helper and monitors %.2f)", agent, b.share(after.cpu-before.cpu)), "≤ 0.3 %", agent <= 0.3)
	touched, err := s.touched(ctx)
	if err != nil {
		return err
	}
	b.report.add(what+"containers that a change of one replaces", fmt.Sprint(touched), "1", touched == 1)
	return nil
}

// touched is how many containers a change of one Deployment replaces.
func (s *site) touched(ctx context.Context) (int, error) {
	before, err := s.started(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := s.server.Apply(ctx, deploymentOf("many-7", fmt.Sprintf("{name: web, image: %q, env: [{name: CHANGED, value: 'yes'}]}", lab.HelloImage))); err != nil {
		return 0, err
	}
	if _, err := s.server.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=60s", "fleetdep/many-7"); err != nil {
		return 0, err
	}
	after, err := s.started(ctx)
	maps.DeleteFunc(after, func(name, started string) bool { return before[name] == started })
	return len(after), err
}

// started says when each container was started.
func (s *site) started(ctx context.Context) (map[string]string, error) {
	out, err := s.machine.OutputAs(ctx, lab.WorkloadUser, "podman", "ps", "--format", "{{.Names}} {{.ID}} {{.StartedAt}}")
	at := map[string]string{}
	for line := range strings.Lines(out) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		at[name] = rest
	}
	return at, err
}
