//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	deviceName = "bench"
	// fleetPort and podmanPort are where the container answers in either case.
	fleetPort, podmanPort = 18080, 18081
	answerTimeout         = 30 * time.Second
	pollInterval          = 2 * time.Millisecond
	// settleTime is how long after its start or a change a program counts as idle: a server
	// gives memory back once a minute, and an agent tells once more what it told already.
	settleTime = 90 * time.Second
)

// starts measures the time until a server is ready, on an empty data directory
// and on one that it had before.
func (b *bench) starts(ctx context.Context) error {
	var first, again, stop []time.Duration
	for range b.repeat {
		err := withDir(func(dir string) error {
			s, err := process.StartServer(ctx, process.Config{Binary: filepath.Join(b.bin, "fleet-server"), DataDir: dir})
			if err != nil {
				return err
			}
			first = append(first, s.ReadyAfter)
			if err := s.Stop(); err != nil {
				return err
			}
			if s, err = s.Restart(ctx); err != nil {
				return err
			}
			again = append(again, s.ReadyAfter)
			begin := time.Now()
			err = s.Stop()
			stop = append(stop, time.Since(begin))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.report.add("ready after a first start", seconds(median(first)), "≤ 0.6 s", median(first) <= 600*time.Millisecond)
	b.report.add("ready after a restart", seconds(median(again)), "≤ 0.4 s", median(again) <= 400*time.Millisecond)
	b.report.add("stopped after SIGTERM", seconds(median(stop)), "< 2 s", median(stop) < 2*time.Second)
	return nil
}

// device measures what needs a real device: memory and processor time of both
// programs when nothing happens, and the way of a Deployment to a container.
func (b *bench) device(ctx context.Context) error {
	return b.eachTree(ctx, "a real device", 1, func(t tree) error {
		return withDir(func(dir string) error {
			s, err := b.newSite(ctx, dir, t)
			if err != nil {
				return err
			}
			if t.name == thisTree {
				err = b.pairs(ctx, s)
			}
			return errors.Join(err, b.idleUse(ctx, s), s.close())
		})
	})
}

// site is a server and a device in a network of their own.
type site struct {
	tree    tree
	network *lab.Network
	server  *process.Server
	machine *lab.Machine
	web     *http.Client
}

func (b *bench) newSite(ctx context.Context, dir string, t tree) (*site, error) {
	l, err := lab.Open(ctx, lab.Options{Progress: b.out})
	if err != nil {
		return nil, err
	}
	s := &site{tree: t}
	if s.network, err = lab.NewNetwork(ctx); err != nil {
		return nil, err
	}
	s.web = &http.Client{Transport: &http.Transport{DialContext: s.network.Server.DialContext, DisableKeepAlives: true}, Timeout: time.Second}
	s.server, err = process.StartServer(ctx, process.Config{
		Binary: t.server(), DataDir: dir,
		Host: s.network.Server.Addr.String(), Command: s.network.Server.Command,
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.machine, err = l.Boot(ctx, lab.Config{Name: "bench", Network: s.network}); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err := s.enroll(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *site) enroll(ctx context.Context) error {
	if err := s.machine.InstallAgent(ctx, filepath.Join(s.tree.bin, "fleet-agent")); err != nil {
		return err
	}
	if err := s.machine.LoadImage(ctx, lab.HelloImage); err != nil {
		return err
	}
	token, err := s.server.Token(ctx, "--pre-approve")
	if err != nil {
		return err
	}
	if err := s.machine.EnrollAgent(ctx, s.server.EnrollURL, token, deviceName); err != nil {
		return err
	}
	_, err = s.server.Kubectl(ctx, "wait", "--for=condition=Ready", "--timeout=60s", "fleetdev/"+deviceName)
	return err
}

func (s *site) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	if s.machine != nil {
		errs = append(errs, s.machine.Destroy(ctx))
	}
	if s.server != nil {
		errs = append(errs, s.server.Stop())
	}
	return errors.Join(append(errs, s.network.Close())...)
}

// pairs measures, by turns, `kubectl apply` until the container answers and
// `podman run` of the same image until it answers.
func (b *bench) pairs(ctx context.Context, s *site) error {
	var kubectl, apply, podman []time.Duration
	var ratios []float64
	for range b.repeat {
		k, a, err := s.applyUntilAnswer(ctx)
		if err != nil {
			return err
		}
		p, err := s.podmanUntilAnswer(ctx)
		if err != nil {
			return err
		}
		kubectl, apply, podman = append(kubectl, k), append(apply, a), append(podman, p)
		ratios = append(ratios, a.Seconds()/p.Seconds())
	}
	ratio := median(ratios)
	b.report.add("`kubectl apply` until the container answers", milliseconds(median(apply)), "", true)
	b.report.add("of this, until `kubectl apply` returns", milliseconds(median(kubectl)), "", true)
	b.report.add("`podman run` of the same image until it answers", milliseconds(median(podman)), "", true)
	b.report.add("ratio of the two", fmt.Sprintf("%.2f", ratio), "≤ 1.25", ratio <= 1.25)
	return nil
}

const manifest = `{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment, metadata: {name: bench, namespace: default},
  spec: {targetSelector: {}, score: {type: PodmanV0, data: {services: [{name: web, image: "%s", ports: [{hostPort: %d, containerPort: %d}]}]}}}}`

// applyUntilAnswer returns how long kubectl took, and how long it took from the
// start of kubectl until the container answered.
func (s *site) applyUntilAnswer(ctx context.Context) (kubectl, total time.Duration, err error) {
	begin := time.Now()
	if _, err := s.server.Apply(ctx, fmt.Sprintf(manifest, lab.HelloImage, fleetPort, lab.HelloPort)); err != nil {
		return 0, 0, err
	}
	kubectl = time.Since(begin)
	if err := s.answer(ctx, fleetPort); err != nil {
		return 0, 0, err
	}
	total = time.Since(begin)
	if _, err := s.server.Kubectl(ctx, "delete", "fleetdep", "bench"); err != nil {
		return 0, 0, err
	}
	return kubectl, total, s.silent(ctx, fleetPort)
}

// podmanUntilAnswer times podman inside the machine, so that the way into the
// machine does not count.
func (s *site) podmanUntilAnswer(ctx context.Context) (time.Duration, error) {
	script := fmt.Sprintf(`begin=$(date +%%s%%N)
podman run --detach --name bench --publish %d:%d %s >/dev/null
until curl -sf -o /dev/null http://127.0.0.1:%[1]d/; do :; done
end=$(date +%%s%%N)
podman rm --force --time 0 bench >/dev/null
echo $((end - begin))`, podmanPort, lab.HelloPort, lab.HelloImage)
	out, err := s.machine.OutputAs(ctx, lab.WorkloadUser, "sh", "-ec", script)
	if err != nil {
		return 0, err
	}
	return time.ParseDuration(strings.TrimSpace(out) + "ns")
}

// answer returns when the container answers.
func (s *site) answer(ctx context.Context, port int) error {
	return wait.Until(ctx, answerTimeout, pollInterval, func() error { return s.fetch(port) })
}

// silent returns when nothing answers any more.
func (s *site) silent(ctx context.Context, port int) error {
	return wait.Until(ctx, answerTimeout, pollInterval, func() error {
		if s.fetch(port) == nil {
			return errors.New("it still answers")
		}
		return nil
	})
}

func (s *site) fetch(port int) error {
	r, err := s.web.Get(fmt.Sprintf("http://%s:%d/", s.machine.Address(), port))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// idleUse measures both programs while one Deployment runs and nothing changes.
func (b *bench) idleUse(ctx context.Context, s *site) error {
	if _, err := s.server.Apply(ctx, fmt.Sprintf(manifest, lab.HelloImage, fleetPort, lab.HelloPort)); err != nil {
		return err
	}
	if err := s.answer(ctx, fleetPort); err != nil {
		return err
	}
	pid, err := s.machine.Output(ctx, "systemctl", "show", "--property=MainPID", "--value", "fleet-agent.service")
	if err != nil {
		return err
	}
	// What the start and the last Deployment left to do is not idleness.
	before, after, err := whileIdle(ctx, b, settleTime, func() (use, error) { return s.use(ctx, strings.TrimSpace(pid)) })
	if err != nil {
		return err
	}
	b.memory(s.tree, "fleet-server, resident memory when idle", after.serverRSS, 110)
	b.memory(s.tree, "of this, what is of no file (anonymous)", after.serverAnonymous, 30)
	b.memory(s.tree, "fleet-agent, resident memory when idle", after.agentRSS, 25)
	serverCPU, agentCPU := b.share(after.serverCPU-before.serverCPU), b.share(after.agentCPU-before.agentCPU)
	b.addOf(s.tree, "fleet-server, processor when idle", fmt.Sprintf("%.2f %% of a core", serverCPU), "≤ 0.4 %", serverCPU <= 0.4)
	b.addOf(s.tree, "fleet-agent, processor when idle", fmt.Sprintf("%.2f %% of a core", agentCPU), "< 0.5 %", agentCPU < 0.5)
	return nil
}

// whileIdle reads something after a while in which everything settles, and again after
// the idle interval.
func whileIdle[T any](ctx context.Context, b *bench, settle time.Duration, read func() (T, error)) (before, after T, err error) {
	if err = pause(ctx, settle); err != nil {
		return before, after, err
	}
	if before, err = read(); err != nil {
		return before, after, err
	}
	fmt.Fprintf(b.out, "idle for %s\n", b.idle)
	if err = pause(ctx, b.idle); err != nil {
		return before, after, err
	}
	after, err = read()
	return before, after, err
}

// share is the processor time of the idle interval in percent of a core.
func (b *bench) share(d time.Duration) float64 { return 100 * d.Seconds() / b.idle.Seconds() }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (b *bench) memory(t tree, what string, bytes, targetMB int64) {
	b.addOf(t, what, megabytes(bytes), fmt.Sprintf("≤ %d MB", targetMB), bytes <= targetMB*1e6)
}

// use is what both programs have used so far.
type use struct {
	serverRSS, serverAnonymous, agentRSS int64
	serverCPU, agentCPU                  time.Duration
}

func (s *site) use(ctx context.Context, agentPID string) (u use, err error) {
	if u.serverRSS, err = process.RSS(s.server.PID()); err != nil {
		return u, err
	}
	if u.serverAnonymous, err = process.Anonymous(s.server.PID()); err != nil {
		return u, err
	}
	if u.serverCPU, err = process.CPU(s.server.PID()); err != nil {
		return u, err
	}
	status, err := s.machine.Output(ctx, "cat", "/proc/"+agentPID+"/status")
	if err != nil {
		return u, err
	}
	if u.agentRSS, err = process.ParseRSS(status); err != nil {
		return u, err
	}
	stat, err := s.machine.Output(ctx, "cat", "/proc/"+agentPID+"/stat")
	if err != nil {
		return u, err
	}
	u.agentCPU, err = process.ParseCPU(stat)
	return u, err
}

// withDir calls f with a directory that is removed afterwards.
func withDir(f func(dir string) error) error {
	dir, err := os.MkdirTemp("", "fleet-bench-")
	if err != nil {
		return err
	}
	return errors.Join(f(dir), os.RemoveAll(dir))
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func megabytes(bytes int64) string { return fmt.Sprintf("%.0f MB", float64(bytes)/1e6) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
