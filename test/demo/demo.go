//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// deviceName is the id under which the device enrolls.
	deviceName = "demo-device"
	// deviceLabel is what examples/hello.yaml selects.
	deviceLabel = "site=demo"
	// pagePort is where the container of examples/hello.yaml answers.
	pagePort = 18080

	waitForContainer = 3 * time.Minute
	waitForPage      = 20 * time.Second
)

// Resources by their full names: the short ones could mean others.
const (
	devices     = "devices.fleet.nationtech.io"
	deployments = "deployments.fleet.nationtech.io"
)

// device is where the agent runs. It is an interface because a demo without
// root has to do without a machine of its own.
type device interface {
	// start makes the device run and fit for the agent.
	start(ctx context.Context) error
	// install brings the agent and the image up to date.
	install(ctx context.Context) error
	// id identifies this installation of the device: another means that it has
	// to enroll again.
	id(ctx context.Context) (string, error)
	// enroll runs fleet-agent enroll and starts the agent.
	enroll(ctx context.Context, url, token string) error
	// diagnose returns what the agent logged last.
	diagnose(ctx context.Context) string
	// hint is a command that shows the device from within.
	hint() string
	// remove ends the device and leaves nothing of it.
	remove(ctx context.Context) error
	// release lets go of a device that goes on.
	release() error
}

// demo is the whole of it.
type demo struct {
	repo, dir string
	report    *report
	server    *server
	device    device
}

type step struct {
	title string
	do    func(context.Context) error
}

func (d *demo) up(ctx context.Context) (err error) {
	start := time.Now()
	defer func() { err = errors.Join(err, d.device.release()) }()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("creating the demo's directory: %w", err)
	}
	steps := []step{
		{"looking at this machine", d.check},
		{"starting fleet-server", d.server.start},
		{"starting a device with systemd and rootless podman", d.device.start},
		{"installing fleet-agent and an image on it", d.device.install},
		{"enrolling the device", d.enroll},
		{"kubectl apply -f examples/hello.yaml", d.apply},
		{"waiting until the container runs on the device", d.wait},
		{"fetching its page from " + pageURL(), d.fetch},
	}
	for i, s := range steps {
		done := d.report.step(i+1, len(steps), s.title)
		if err := s.do(ctx); err != nil {
			d.explain(ctx)
			return fmt.Errorf("%s: %w", s.title, err)
		}
		done()
	}
	return d.summary(ctx, time.Since(start))
}

func (d *demo) down(ctx context.Context) error {
	return errors.Join(d.device.remove(ctx), d.server.stop(ctx), os.RemoveAll(d.dir))
}

func pageURL() string { return "http://" + loopback(pagePort) + "/" }

// mark is a file that names the installation of the device that is enrolled.
func (d *demo) mark() string { return filepath.Join(d.dir, "enrolled") }

// check finds what is missing or in the way before anything is started.
func (d *demo) check(context.Context) error {
	for _, name := range []string{"fleet-server", "fleet-agent"} {
		if _, err := os.Stat(filepath.Join(d.repo, "bin", name)); err != nil {
			return fmt.Errorf("%w: run make build", err)
		}
	}
	if _, err := os.Stat(d.mark()); err == nil {
		return nil // the port is the demo's own
	}
	if port, err := freePort(pagePort); err != nil || port != pagePort {
		return fmt.Errorf("port %d, which examples/hello.yaml publishes, is taken: stop the program that listens there", pagePort)
	}
	return nil
}

// enroll gives the device an identity, once. The mark names the installation
// that has it: a new machine, or a new server, enrolls again.
func (d *demo) enroll(ctx context.Context) error {
	id, err := d.device.id(ctx)
	if err != nil {
		return err
	}
	enrolled, err := os.ReadFile(d.mark())
	if err == nil && string(enrolled) == id {
		fmt.Fprintln(d.report, "it is enrolled already")
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the mark of enrollment: %w", err)
	}
	if _, err := d.server.kubectl(ctx, "delete", devices, deviceName, "--ignore-not-found"); err != nil {
		return err
	}
	token, err := d.server.token(ctx)
	if err != nil {
		return err
	}
	if err := d.device.enroll(ctx, d.server.enrollURL(), token); err != nil {
		return err
	}
	if err := os.WriteFile(d.mark(), []byte(id), 0o600); err != nil {
		return fmt.Errorf("writing the mark of enrollment: %w", err)
	}
	return nil
}

func (d *demo) apply(ctx context.Context) error {
	out, err := d.server.kubectl(ctx, "apply", "-f", filepath.Join(d.repo, "examples", "hello.yaml"))
	fmt.Fprint(d.report, out)
	return err
}

func (d *demo) wait(ctx context.Context) error {
	_, err := d.server.kubectl(ctx, "wait", "--for=condition=Available", deployments+"/hello",
		fmt.Sprintf("--timeout=%ds", int(waitForContainer.Seconds())))
	return err
}

func (d *demo) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, waitForPage)
	defer cancel()
	return poll(ctx, func() error {
		page, err := get(ctx, pageURL())
		if err == nil {
			fmt.Fprint(d.report, page)
		}
		return err
	})
}

func get(ctx context.Context, url string) (string, error) {
	const maxPage = 64 << 10
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return string(body), err
}

// explain shows what may have caused a failure.
func (d *demo) explain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	fmt.Fprintln(d.report, "the server logged last, in", d.server.logFile())
	fmt.Fprint(d.report, tail(d.server.logFile(), 5))
	if log := d.device.diagnose(ctx); log != "" {
		fmt.Fprintln(d.report, "the agent logged last:")
		fmt.Fprint(d.report, log)
	}
}

func (d *demo) summary(ctx context.Context, took time.Duration) error {
	var tables strings.Builder
	for _, kind := range []string{devices, deployments} {
		table, err := d.server.kubectl(ctx, "get", kind, "--all-namespaces")
		if err != nil {
			return err
		}
		fmt.Fprintf(&tables, "\n%s", table)
	}
	fmt.Fprintf(d.report.out, "%s\nThe demo is up, after %.0f s. Try next:\n\n", tables.String(), took.Seconds())
	kubectl := "bin/fleet-server kubectl --data-dir " + d.typed(d.server.dataDir())
	for _, hint := range []struct{ what, command string }{
		{"watch the devices", kubectl + " get fleetdev -o wide --watch"},
		{"make the container leave", kubectl + " label fleetdev " + deviceName + " site-"},
		{"make it come back", kubectl + " label fleetdev " + deviceName + " " + deviceLabel},
		{"read what a Deployment can say", kubectl + " explain fleetdep.spec"},
		{"see it from the device", d.device.hint()},
		{"remove the demo", "make demo-down"},
	} {
		fmt.Fprintf(d.report.out, "  # %s\n  %s\n", hint.what, hint.command)
	}
	return nil
}

// typed shortens a path for people, who type it in the repository.
func (d *demo) typed(path string) string {
	if rel, err := filepath.Rel(d.repo, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// poll calls try until it succeeds; when ctx ends it returns its last error.
func poll(ctx context.Context, try func() error) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// tail returns the last n lines of a file, or nothing.
func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.SplitAfter(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
