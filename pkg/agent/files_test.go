package agent_test

import (
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// withFile makes a service mount the ConfigMap conf, and follow it as told.
func withFile(reload score.Reload) func(*score.Service) {
	return func(s *score.Service) {
		s.Volumes = []score.Volume{{ConfigMap: &score.ConfigMapFiles{Name: "conf"}, MountPath: "/conf", Reload: reload}}
	}
}

// setConfig changes the content of the ConfigMap, and the manifest with it.
func (d *device) setConfig(content string) {
	digest := wire.Sum([]byte("digest of " + content)).String()
	d.gateway.look(func() {
		d.gateway.secrets = map[string]map[string][]byte{"shop/" + wire.ConfigMapName("conf"): {"a": []byte(content)}}
	})
	d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].SecretsDigest = digest })
}

// fileVolume is the volume of files of the Deployment.
func (d *device) fileVolume() string {
	d.t.Helper()
	volumes, err := d.podman.Volumes(d.t.Context(), web)
	var found []string
	for _, v := range volumes {
		if container.IsFileVolume(v) {
			found = append(found, v)
		}
	}
	if err != nil || len(found) != 1 {
		d.t.Fatalf("volumes of files are %v, %v", found, err)
	}
	return found[0]
}

// shows is what the service sees in its file.
func (d *device) shows() string {
	files := d.podman.Files(d.fileVolume())
	half := strings.TrimPrefix(files["..data"], "\x00link to ")
	return files[half+"/a"]
}

// What changes in place reaches the container that runs, which is told if it wants to be; it
// is not replaced, and nothing of what was is left.
func TestFilesChangeInPlace(t *testing.T) {
	for reload, signals := range map[score.Reload]int{score.ReloadNone: 0, score.ReloadSignal: 1} {
		t.Run(string(reload), func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.setOffline(true)
				d.gateway.issue("e1", deployments{web: {"front": withFile(reload), "back": nil}})
				d.setConfig("one")
				d.gateway.setOffline(false)
				d.settle()
				d.expectPhase(web, wire.PhaseRunning, "")
				if got := d.shows(); got != "one" {
					t.Fatalf("the file has %q", got)
				}
				d.podman.Calls()
				for _, content := range []string{"two", "three"} {
					d.setConfig(content)
					d.settle()
					d.expectPhase(web, wire.PhaseRunning, "")
					if got := d.shows(); got != content {
						t.Errorf("the file has %q, want %q", got, content)
					}
					calls := strings.Join(d.podman.Calls(), "\n")
					if strings.Contains(calls, "start") || strings.Count(calls, "signal") != signals {
						t.Errorf("after a change:\n%s", calls)
					}
				}
				for name, content := range d.podman.Files(d.fileVolume()) {
					if content == "one" || content == "two" {
						t.Errorf("%s still has %q", name, content)
					}
				}
				d.pass(time.Hour)
				if calls := d.podman.Calls(); strings.Contains(strings.Join(calls, "\n"), "unpack") {
					t.Errorf("without a change: %v", calls)
				}
				d.gateway.issue("e1", nil)
				d.settle()
				if left, err := d.podman.Volumes(t.Context(), web); err != nil || len(left) > 0 {
					t.Errorf("volumes %v are left, %v", left, err)
				}
			})
		})
	}
}

// By default a change replaces the container that uses the file, and no other, and the volume
// of the previous one goes.
func TestFilesThatRestart(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.setOffline(true)
		d.gateway.issue("e1", deployments{web: {"front": withFile(""), "back": nil}})
		d.setConfig("one")
		d.gateway.setOffline(false)
		d.settle()
		before := d.fileVolume()
		d.podman.Calls()
		d.setConfig("two")
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		if d.fileVolume() == before || d.shows() != "two" {
			t.Errorf("the file has %q", d.shows())
		}
		if calls := strings.Join(d.podman.Calls(), "\n"); strings.Contains(calls, "back") || !strings.Contains(calls, "stop shop_web_front") {
			t.Errorf("the calls are\n%s", calls)
		}
	})
}
