package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/trace"
)

// withSecret makes a service use the Secret db.
func withSecret(s *score.Service) {
	s.Env = []score.EnvVar{{Name: "PASSWORD", ValueFrom: &score.EnvVarSource{SecretKeyRef: score.SecretKeyRef{Name: "db", Key: "password"}}}}
	s.Volumes = []score.Volume{{SecretName: "db", MountPath: "/run/db"}}
}

// setSecret changes the content of the Secret, and the manifest with it.
func (d *device) setSecret(content string) {
	digest := wire.Sum([]byte("digest of " + content)).String()
	d.gateway.look(func() {
		d.gateway.secrets = map[string]map[string][]byte{"shop/db": {"password": []byte(content)}}
	})
	d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].SecretsDigest = digest })
}

func (d *device) secretNames() []string {
	names, err := d.podman.Secrets(d.t.Context(), web)
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}

func TestSecretsReachTheContainerAndNothingElse(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.setOffline(true)
		d.gateway.issue("e1", deployments{web: {"front": withSecret, "back": nil}})
		d.setSecret("first password")
		d.gateway.setOffline(false)
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		names := d.secretNames()
		if len(names) != 1 || string(d.podman.Secret(names[0])) != "first password" {
			t.Fatalf("podman has the secrets %v", names)
		}
		if s := d.gateway.state(web); s.SecretsDigest != d.gateway.manifest.Entries[0].SecretsDigest {
			t.Errorf("report %+v", s)
		}
		d.noTrace("first password")

		// A change replaces the container that uses the Secret, and no other.
		d.podman.Calls()
		d.setSecret("second password")
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		now := d.secretNames()
		if len(now) != 1 || now[0] == names[0] || string(d.podman.Secret(now[0])) != "second password" {
			t.Errorf("podman has the secrets %v", now)
		}
		d.expectCalls(slices.Concat([]string{"secret " + now[0]}, preparedBeside, swapped, []string{"unsecret " + names[0]})...)

		// Offline, and the container is lost: it comes back with its Secret.
		d.gateway.setOffline(true)
		d.stop()
		d.loseContainers()
		d.start()
		d.pass(10 * time.Second)
		if list, err := d.podman.List(t.Context(), web); err != nil || len(list) != 2 {
			t.Errorf("containers are %+v, %v", list, err)
		}
		d.noTrace("second password")

		d.gateway.setOffline(false)
		d.gateway.issue("e1", nil)
		d.settle()
		if left := d.secretNames(); len(left) > 0 {
			t.Errorf("secrets %v are left", left)
		}
		if entries, err := os.ReadDir(filepath.Join(d.dir, "secrets")); err == nil && len(entries) > 0 {
			t.Errorf("%d sets of secrets are left", len(entries))
		}
	})
}

// A secret that podman lost is made again before its container starts, also where an update
// is waited for.
func TestASecretThatIsLostIsMadeAgain(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.setOffline(true)
		d.gateway.issue("e1", deployments{web: {"front": withSecret}})
		d.setSecret("password")
		d.gateway.setOffline(false)
		d.settle()
		name := d.secretNames()[0]
		d.must(d.podman.RemoveSecret(t.Context(), name))
		d.podman.Calls()
		d.podman.Exit("shop_web_front", 1)
		d.pass(10 * time.Second)
		d.expectCalls("secret "+name, "start shop_web_front")

		r := make(registry)
		d.podman.SetPull(r.pull)
		digest := d.gateway.manifest.Entries[0].SecretsDigest
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) { withSecret(s); s.Image = "localhost/app:2" }}})
		d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].SecretsDigest = digest })
		d.pass(time.Minute)
		d.losesPower()
		d.must(d.podman.RemoveSecret(t.Context(), name))
		d.podman.Calls()
		d.start()
		d.expectCalls("secret "+name, "start shop_web_front")
	})
}

// loseContainers removes the containers and their secrets behind the agent's back.
func (d *device) loseContainers() {
	list, err := d.podman.List(d.t.Context(), web)
	for _, c := range list {
		err = errors.Join(err, d.podman.Stop(d.t.Context(), c.ID, 0), d.podman.Remove(d.t.Context(), c.ID))
	}
	for _, name := range d.secretNames() {
		err = errors.Join(err, d.podman.RemoveSecret(d.t.Context(), name))
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// noTrace looks for a text in everything that the agent keeps, which has Secrets.
func (d *device) noTrace(text string) {
	d.t.Helper()
	if sealed, err := os.ReadDir(filepath.Join(d.dir, "secrets")); err != nil || len(sealed) == 0 {
		d.t.Errorf("the agent keeps no Secrets: %v", err)
	}
	trace.None(d.t, text, d.dir)
}

func TestSecretThatCannotBeFetchedKeepsWhatRuns(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": withSecret}})
		d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].SecretsDigest = wire.Sum(nil).String() })
		d.settle()
		d.expectCalls()
		d.expectPhase(web, wire.PhaseFailed, "no such Secret")
		d.setSecret("now it is there")
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestMissingKeyOfASecretIsNamed(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.setOffline(true)
		d.gateway.issue("e1", deployments{web: {"front": withSecret}})
		d.setSecret("x")
		d.gateway.look(func() { d.gateway.secrets["shop/db"] = map[string][]byte{"user": []byte("x")} })
		d.gateway.setOffline(false)
		d.settle()
		if s := d.gateway.state(web); s.Phase != wire.PhaseFailed || !strings.Contains(s.Error, `the Secret "db" has no key "password"`) {
			t.Errorf("report %+v", s)
		}
	})
}

// A Secret changes from A to B and back while the device asks: what it gets is B, while its
// manifest speaks of A.
func TestASecretThatIsAheadOfTheManifest(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.setOffline(true)
		d.gateway.issue("e1", deployments{web: {"front": withSecret}})
		d.setSecret("A")
		d.gateway.look(func() {
			d.gateway.secrets["shop/db"]["password"] = []byte("B")
			d.gateway.answers = wire.Sum([]byte("digest of B")).String()
		})
		d.gateway.setOffline(false)
		d.settle()
		d.expectPhase(web, wire.PhasePending, "")
		if names := d.secretNames(); len(names) > 0 {
			t.Errorf("podman has the secrets %v", names)
		}
		d.gateway.look(func() {
			d.gateway.secrets["shop/db"]["password"] = []byte("A")
			d.gateway.answers = wire.Sum([]byte("digest of A")).String()
		})
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		if names := d.secretNames(); len(names) != 1 || string(d.podman.Secret(names[0])) != "A" {
			t.Errorf("podman has the secrets %v", names)
		}
	})
}
