//go:build linux

package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
)

const (
	appsNamespace = "apps"
	// appsConfig is what agent.yaml allows besides, as the examples say.
	appsConfig = "bindRoots: [/srv/recorder]\nallow: {devices: [/dev/serial/by-id, /dev/video0], hostNamespaces: [network]}"
)

// apps are the files of examples/apps whose programs Debian has, with the containers of each.
var apps = map[string][]string{
	"broker":    {"broker", "client", "driver"},
	"database":  {"database"},
	"exporter":  {"exporter"},
	"recorder":  {"recorder"},
	"telemetry": {"collector", "dashboard", "database"},
	"web":       {"first", "proxy", "second"},
}

// programs are those that the examples run, as Debian packages them, under the names of the
// images that the examples use.
var programs = lab.Programs{
	Suite: lab.Bookworm,
	Packages: []string{
		"curl", "influxdb", "mosquitto", "mosquitto-clients", "nginx-light", "postgresql-15", "prometheus-node-exporter",
	},
	Before: `mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"`,
	After: `chroot "$1" sh -e -c "` +
		`usermod -u 999 postgres; groupmod -g 999 postgres; ` +
		`install -d -o mosquitto -g mosquitto /mosquitto/data; ln -s mosquitto /usr/bin/mosquitto-broker; ln -s ../sbin/mosquitto /usr/bin/mosquitto; ` +
		`rm /etc/nginx/sites-enabled/default; ln -s prometheus-node-exporter /usr/bin/node_exporter"`,
}

var programImages = []string{
	"docker.io/library/eclipse-mosquitto:2", "docker.io/library/postgres:15", "docker.io/library/influxdb:1.8",
	"docker.io/library/nginx:1.29", "docker.io/curlimages/curl:8.11.0", "docker.io/prom/node-exporter:v1.9.1",
}

// TestApplications runs the applications of examples/apps as they stand, on one machine of
// each suite: they work, come back after a power cut without a server, take a change of one
// service, and leave nothing but data.
func TestApplications(t *testing.T) {
	t.Parallel()
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Name: "apps-" + suite, Suite: suite})
			s.prepareApps()
			s.startApps()
			s.appsWork()
			s.changeOneService()
			s.appsWithoutServer()
			s.leaveData()
		})
	}
}

// prepareApps gives the device the images, a meter on a serial line, a camera and the labels.
func (s *site) prepareApps() {
	s.t.Helper()
	ctx := s.t.Context()
	l, err := lab.Open(ctx, lab.Options{Progress: s.t.Output()})
	s.must(err)
	archive, err := programs.Archive(ctx, l)
	s.must(err)
	s.must(s.machine.Import(ctx, archive, programImages...))
	s.must(s.machine.Tag(ctx, lab.HelloImage, "docker.io/library/busybox:1.37"))
	s.root("sed -i '/^bindRoots:/d' /etc/fleet-agent/agent.yaml; echo '" + appsConfig + "' >>/etc/fleet-agent/agent.yaml; " +
		"mkdir -p /srv/recorder && printf 'SEGMENT_KB=128\\nKEEP=3\\n' >/srv/recorder/recorder.conf; usermod -aG dialout fleet-workload")
	s.plugIn()
	s.root("systemctl restart user@$(id -u fleet-workload).service fleet-agent")
	s.trust(appsNamespace)
	labels := []string{"label", "fleetdev", deviceName, "line=press"}
	for app := range apps {
		labels = append(labels, app+"=yes")
	}
	s.kubectl(labels...)
	s.tlsSecret("web-tls")
}

// plugIn gives the device a meter, which says what is written to /run/meter, and a camera. The
// end of the meter's line that programs read is a pseudo terminal.
func (s *site) plugIn() {
	s.t.Helper()
	s.root(`set -e
		rm -f /run/meter /run/meter-tty; mkfifo /run/meter
		systemd-run --quiet --unit=meter --collect sh -c 'script -qc "stty raw -echo; tty >/run/meter-tty; exec sleep infinity" /dev/null <>/run/meter'
		until test -s /run/meter-tty; do sleep 0.1; done
		terminal=$(cat /run/meter-tty); chgrp dialout "$terminal"; chmod 0660 "$terminal"
		mkdir -p /dev/serial/by-id; ln -s "$terminal" /dev/serial/by-id/usb-meter
		mknod -m 0666 /dev/video0 c 1 5`)
}

// tlsSecret makes a Secret of a new certificate.
func (s *site) tlsSecret(name string) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"edge-1"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	s.must(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	s.must(err)
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": name, "namespace": appsNamespace}, "type": "kubernetes.io/tls",
		"data": map[string][]byte{
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
			"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		},
	})
	s.must(err)
	_, err = s.server.Apply(s.t.Context(), string(secret))
	s.must(err)
}

// startApps applies the files as they stand, and waits until all is ready.
func (s *site) startApps() {
	s.t.Helper()
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		s.kubectl("apply", "-n", appsNamespace, "-f", filepath.Join("..", "..", "examples", "apps", app+".yaml"))
	}
	for app := range apps {
		s.aggregateIn(appsNamespace, app, counts{1, 1, 0, 0})
	}
}

// work is a command for a shell on the device or in a container, and what it prints once the
// application works.
type work struct{ app, service, run, want string }

// works is what each application is for.
var works = []work{
	{"broker", onDevice, "echo 42.5 >/run/meter", ""},
	{"broker", "client", "cat /data/last", "plant/meter 42.5"},
	{"database", "database", psql("CREATE TABLE IF NOT EXISTS parts (name text); DELETE FROM parts; INSERT INTO parts VALUES ('bolt'); SELECT name FROM parts"), "bolt"},
	{"telemetry", onDevice, `curl -fsS --get --data-urlencode 'q=SELECT LAST(load) FROM machine GROUP BY site' http://127.0.0.1:3000/query | grep -o '"site":"[a-z]*"'`, `"site":"a"`},
	{"telemetry", onDevice, "curl -fsS http://127.0.0.1:3000/ | head -n 2 | tail -n 1", "<title>Machine</title>"},
	{"telemetry", onDevice, "curl -sS -o /dev/null -w '%{http_code}' -d q=x http://127.0.0.1:3000/query", "403"},
	{"web", onDevice, "for i in $(seq 20); do curl -fsSk https://127.0.0.1:8443/; done | sort -u", "first of edge-1, line press\nsecond of edge-1, line press"},
	{"recorder", "recorder", "ls /recordings | wc -l", "3"},
	{"recorder", "recorder", "stat -c %s /recordings/* | sort -u", "131072"},
	{"exporter", onDevice, `curl -fsS http://127.0.0.1:9100/metrics | grep -c '^node_network_info{.*device="lo"\|^node_load1 '`, "1"},
}

// psql runs statements in the database of the example.
func psql(statements string) string {
	return fmt.Sprintf("PGPASSWORD=change-me PGOPTIONS='-c client_min_messages=warning' psql --host=127.0.0.1 --username=postgres --quiet --tuples-only --no-align --command=%q", statements)
}

func (s *site) appsWork() {
	s.t.Helper()
	for _, w := range works {
		s.showsWork(w)
	}
}

func (s *site) showsWork(w work) {
	s.t.Helper()
	s.eventually(w.app+" works: "+w.run, func() error {
		r, err := s.inApp(w)
		if got := strings.TrimSpace(r.Stdout + r.Stderr); err == nil && got != w.want {
			err = fmt.Errorf("it prints %q, want %q", got, w.want)
		}
		return err
	})
}

func (s *site) inApp(w work) (lab.Result, error) {
	if w.service == onDevice {
		return s.machine.Run(s.t.Context(), "sh", "-c", w.run)
	}
	return s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "podman", "exec", appsNamespace+"_"+w.app+"_"+w.service, "sh", "-c", w.run)
}

// changeOneService changes the collector and the hour of the dump: no other container is
// replaced, and the dump runs.
func (s *site) changeOneService() {
	s.t.Helper()
	before := s.appContainers()
	patch := func(app, change string) {
		s.kubectl("patch", "fleetdep", "-n", appsNamespace, app, "--type=json", "-p", "["+change+"]")
	}
	patch("telemetry", `{"op": "add", "path": "/spec/score/data/services/1/env/-", "value": {"name": "CHANGED", "value": "yes"}}`)
	patch("database", `{"op": "replace", "path": "/spec/score/data/services/1/schedule/cron", "value": "* * * * *"}`)
	s.aggregateIn(appsNamespace, "telemetry", counts{1, 1, 0, 0})
	s.showsWork(work{"telemetry", "collector", "echo $CHANGED", "yes"})
	after := s.appContainers()
	for name, id := range before {
		if isCollector := name == "apps_telemetry_collector"; (after[name] == id) == isCollector {
			s.t.Errorf("%s was %s and is %s: the collector alone was changed", name, id, after[name])
		}
	}
	// A backend that restarts has another address. Until it is back, the other one answers.
	s.podman("kill", "apps_web_first")
	s.on("for i in $(seq 20); do curl -fsSk https://127.0.0.1:8443/; done")
	s.showsWork(works[slices.IndexFunc(works, func(w work) bool { return w.app == "web" })])
	s.showsWork(work{"database", onDevice, `grep -c 'COPY public.parts' "$(` + forWorkload + `podman volume inspect --format '{{.Mountpoint}}' apps_database_dumps)"/[1-7].sql`, "1"})
}

// appContainers are the ids of the containers that are no runs of the job, by their names.
func (s *site) appContainers() map[string]string {
	s.t.Helper()
	ids := map[string]string{}
	for app, services := range apps {
		for _, service := range services {
			name := appsNamespace + "_" + app + "_" + service
			ids[name] = s.container(name)
		}
	}
	return ids
}

// appsWithoutServer: after a power cut all works again without the server and a network, and
// has its data.
func (s *site) appsWithoutServer() {
	s.t.Helper()
	ctx := s.t.Context()
	s.restart(func() {
		s.must(s.server.Stop())
		s.must(s.machine.PowerCut(ctx))
		s.must(s.machine.Link.Deconfigure(ctx))
		s.must(s.machine.Start(ctx))
		s.showsWork(work{"database", "database", psql("SELECT name FROM parts"), "bolt"})
		s.showsWork(work{"broker", "client", "cat /data/last", "plant/meter 42.5"})
		s.plugIn()
		s.appsWork()
		s.must(s.machine.Link.Configure(ctx))
	})
	s.device("the device is back", "Connected", metav1.ConditionTrue)
	for app := range apps {
		s.aggregateIn(appsNamespace, app, counts{1, 1, 0, 0})
	}
}

// leaveData: what the Deployments leave are volumes.
func (s *site) leaveData() {
	s.t.Helper()
	s.kubectl("delete", "fleetdep", "-n", appsNamespace, "--all", "--timeout=60s")
	s.containers()
	const volumes = "apps_broker_data apps_broker_readings apps_database_cluster apps_database_dumps apps_recorder_recordings apps_telemetry_data"
	s.eventually("volumes alone are left", func() error {
		left := map[string]string{
			volumes:  s.podman("volume", "ls", "--quiet"),
			"podman": s.podman("network", "ls", "--quiet"),
			"":       s.podman("secret", "ls", "--quiet") + s.podman("pod", "ls", "--quiet"),
		}
		for want, got := range left {
			if names := strings.Fields(got); strings.Join(slices.Sorted(slices.Values(names)), " ") != want {
				return errors.New("there is still " + got)
			}
		}
		return nil
	})
}
