//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
)

// probed is how many services are probed.
const probedServices = 5

// probes measures what a device at rest takes whose services are probed every 10 s, by
// connections and, apart from that, by commands.
func (b *bench) probes(ctx context.Context) error {
	return withDir(func(dir string) error {
		s, err := b.newSite(ctx, dir, b.present())
		if err != nil {
			return err
		}
		err = errors.Join(
			b.probed(ctx, s, "tcp and http probes", "livenessProbe: {tcpSocket: {port: 8080}}, readinessProbe: {httpGet: {port: 8080}}", true),
			b.probed(ctx, s, "exec probes", "livenessProbe: {exec: {command: ['true']}, timeoutSeconds: 5}", false),
		)
		return errors.Join(err, s.close())
	})
}

func (b *bench) probed(ctx context.Context, s *site, kind, probes string, promised bool) error {
	var services []string
	for n := range probedServices {
		services = append(services, fmt.Sprintf("{name: s%d, image: '%s', %s}", n, lab.HelloImage, probes))
	}
	_, err := s.server.Apply(ctx, fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: probed, namespace: default},
  spec: {targetSelector: {}, score: {type: PodmanV0, data: {services: [%s]}}}}`, strings.Join(services, ", ")))
	if err != nil {
		return err
	}
	if _, err := s.server.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=120s", "fleetdep/probed"); err != nil {
		return err
	}
	before, after, err := whileIdle(ctx, b, settleTime, func() (rest, error) { return s.rest(ctx) })
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d services with %s every 10 s: ", probedServices, kind)
	share := b.share(after.cpu - before.cpu)
	processor := fmt.Sprintf("%.2f %% of a core (agent %.2f, helper %.2f, podman %.2f, monitors %.2f)", share,
		b.share(after.parts[0]-before.parts[0]), b.share(after.parts[1]-before.parts[1]), b.share(after.parts[2]-before.parts[2]), b.share(after.parts[3]-before.parts[3]))
	if !promised {
		b.report.add(what+"processor of agent, helper, podman and monitors", processor, "", true)
		return nil
	}
	const mb = 1e6
	b.report.add(what+"processor of agent, helper, podman and monitors", processor, "≤ 0.3 %", share <= 0.3)
	b.report.add(what+"memory of the agent (PSS)", fmt.Sprintf("%.1f MB", float64(after.pss)/mb), "≤ 16 MB", after.pss <= 16*mb)
	b.report.add(what+"memory of the helper (PSS)", fmt.Sprintf("%.1f MB", float64(after.helper)/mb), "", true)
	b.report.add(what+"files written", fmt.Sprintf("%d %s", len(after.written), strings.Join(after.written, " ")), "0", len(after.written) == 0)
	perDay := float64(after.wire-before.wire) * 24 * time.Hour.Seconds() / b.idle.Seconds()
	b.report.add(what+"bytes on the wire", fmt.Sprintf("%.2f MB a day", perDay/mb), "≤ 1 MB a day", perDay <= mb)
	return nil
}

// rest is what a device at rest has used so far.
type rest struct {
	// parts are the processor times of agent, helper, podman and monitors, cpu their sum.
	parts [4]time.Duration
	cpu   time.Duration
	// pss and helper are the memory of the agent and of the helper, in bytes.
	pss, helper int64
	// wire is what was sent and received in packets of IPv4, in bytes: what a provider of
	// mobile links counts.
	wire int64
	// written are the files that were written since the last call, but for logs.
	written []string
}

// restScript prints a rest, a line for each field.
const restScript = `
cpu() { # PATTERN
	find /sys/fs/cgroup -path "$1" -name cpu.stat -exec awk '$1 == "usage_usec" { print $2 }' {} + | awk '{ n += $1 } END { print n + 0 }'
}
pss() { # PID
	awk '$1 == "Pss:" { print $2 * 1024 }' "/proc/$1/smaps_rollup"
}
cpu '*/fleet-agent.service/cpu.stat'
cpu '*/fleet-helper.service/cpu.stat'
cpu '*/podman.service/cpu.stat'
cpu '*/libpod-conmon-*.scope/cpu.stat'
pss "$(systemctl show --property=MainPID --value fleet-agent.service)"
pss "$(pgrep --oldest --full '^/usr/bin/fleet-agent helper' || echo self)"
awk '$1 == "IpExt:" && names++ { for (i in name) if (name[i] ~ /^(In|Out)Octets$/) n += $i } $1 == "IpExt:" { split($0, name) } END { printf "%.0f\n", n }' /proc/net/netstat
if [ -e /run/bench-mark ]; then find /var/lib /etc -xdev -newer /run/bench-mark -type f ! -name '*.log' | grep -v ^/var/lib/systemd/ | sort; fi
touch /run/bench-mark
`

func (s *site) rest(ctx context.Context) (r rest, err error) {
	out, err := s.machine.Output(ctx, "sh", "-ec", restScript)
	if err != nil {
		return r, err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	const numbers = 7
	if len(lines) < numbers {
		return r, fmt.Errorf("the device says %q", out)
	}
	var values [numbers]int64
	for i := range values {
		if values[i], err = strconv.ParseInt(lines[i], 10, 64); err != nil {
			return r, err
		}
	}
	for i := range r.parts {
		r.parts[i] = time.Duration(values[i]) * time.Microsecond
		r.cpu += r.parts[i]
	}
	r.pss, r.helper, r.wire, r.written = values[4], values[5], values[6], lines[numbers:]
	return r, nil
}
