package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// withMounts runs a test on a device whose directory srv may be mounted.
func withMounts(t *testing.T, test func(d *device, srv string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the directories above a mount must be root's")
	}
	onDevice(t, func(d *device) {
		d.stop()
		srv := filepath.Join(filepath.Dir(d.dir), "srv")
		d.must(os.MkdirAll(filepath.Join(srv, "data", "sub"), 0o755))
		d.roots = []string{srv}
		d.start()
		test(d, srv)
	})
}

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func mounting(path string, readOnly bool) func(*score.Service) {
	return func(s *score.Service) {
		s.Volumes = []score.Volume{{HostPath: path, MountPath: "/data", ReadOnly: readOnly}}
	}
}

// replaceByLink is what a container does that may write the directory above.
func (d *device) replaceByLink(path string) {
	d.t.Helper()
	const subordinateID = 100_000
	d.must(errors.Join(os.RemoveAll(path), os.Symlink("/run", path), os.Chown(filepath.Dir(path), subordinateID, subordinateID)))
}

// TestAMountThatBecameALinkEndsItsContainer: podman resolves the path again when
// it restarts a container, and asks nobody.
func TestAMountThatBecameALinkEndsItsContainer(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		sub := filepath.Join(srv, "data", "sub")
		d.gateway.issue("e1", deployments{web: {"front": mounting(sub, false)}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()

		d.podman.Restart("shop_web_front") // the control: podman may restart it
		d.settle()
		d.expectCalls()

		d.replaceByLink(sub)
		d.podman.Exit("shop_web_front", 1)
		d.podman.Restart("shop_web_front")
		d.settle()
		d.expectCalls("stop shop_web_front", "remove shop_web_front")
		d.expectPhase(web, wire.PhaseFailed, "bind mount refused")

		d.must(errors.Join(os.Remove(sub), os.MkdirAll(sub, 0o755), os.Chown(filepath.Dir(sub), 0, 0)))
		d.agent.Refresh()
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// TestAMountThatBecameALinkDuringAChange: the previous container takes its time to end,
// and neither the next one nor, as the way back, that one itself may be started on the link.
func TestAMountThatBecameALinkDuringAChange(t *testing.T) {
	for name, linked := range map[string]bool{"control": false, "link": true} {
		t.Run(name, func(t *testing.T) {
			withMounts(t, func(d *device, srv string) {
				sub := filepath.Join(srv, "data", "sub")
				mount := mounting(sub, false)
				d.gateway.issue("e1", deployments{web: {"front": mount}})
				d.settle()
				d.podman.Ending = 20 * time.Second
				d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
					mount(s)
					s.Args = []string{"2"}
				}}})
				d.pass(10 * time.Second)
				if linked {
					d.replaceByLink(sub)
				}
				d.podman.Calls()
				d.pass(time.Minute)
				started := slices.ContainsFunc(d.podman.Calls(), func(call string) bool { return strings.HasPrefix(call, "start ") })
				if started == linked {
					t.Errorf("a container was started: %t", started)
				}
				if linked {
					d.expectPhase(web, wire.PhaseFailed, "bind mount refused")
				} else {
					d.expectPhase(web, wire.PhaseRunning, "")
				}
			})
		})
	}
}

// TestAMountIsLookedAtWithoutAnEvent: what an earlier agent started, or somebody
// changed, is found at the next look.
func TestAMountIsLookedAtWithoutAnEvent(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		sub := filepath.Join(srv, "data", "sub")
		d.gateway.issue("e1", deployments{web: {"front": mounting(sub, true)}})
		d.settle()
		d.podman.Calls()
		d.replaceByLink(sub)
		d.pass(2 * time.Minute)
		d.expectCalls("stop shop_web_front", "remove shop_web_front")
	})
}

// TestAMountThatIsGoneStopsNothing: no container can make it again.
func TestAMountThatIsGoneStopsNothing(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		sub := filepath.Join(srv, "data", "sub")
		d.gateway.issue("e1", deployments{web: {"front": mounting(sub, false)}})
		d.settle()
		d.podman.Calls()
		d.must(os.Remove(sub))
		d.pass(2 * time.Minute)
		d.expectCalls()
		d.expectPhase(web, wire.PhaseFailed, "does not exist")
	})
}

// TestContainersOfAnEarlierAgentAreChecked: they were made by other rules, and
// their score may not be on the device.
func TestContainersOfAnEarlierAgentAreChecked(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		d.stop()
		d.podman.Calls()
		for service, path := range map[string]string{"bad": "/run", "good": filepath.Join(srv, "data")} {
			id, err := d.podman.Create(t.Context(), &container.Spec{
				Ref: api, Service: service, Image: image, Restart: container.RestartAlways, Mounts: []container.Mount{{HostPath: path, Path: "/m"}},
			})
			d.must(err)
			d.must(d.podman.Start(t.Context(), id))
		}
		d.podman.Calls()
		d.start()
		d.settle()
		d.expectCalls("stop shop_api_bad", "remove shop_api_bad")
	})
}

// TestNoMountLiesInAnothers: the one could put a link in the place of the other.
func TestNoMountLiesInAnothers(t *testing.T) {
	data, sub := "data", filepath.Join("data", "sub")
	for name, tt := range map[string]struct{ first, second string }{
		"the outer one comes later": {sub, data},
		"the inner one comes later": {data, sub},
	} {
		t.Run(name, func(t *testing.T) {
			withMounts(t, func(d *device, srv string) {
				first := services{"front": mounting(filepath.Join(srv, tt.first), false)}
				d.gateway.issue("e1", deployments{web: first})
				d.settle()
				d.podman.Calls()
				d.gateway.issue("e1", deployments{web: first, api: {"back": mounting(filepath.Join(srv, tt.second), false)}})
				d.settle()
				d.expectCalls()
				d.expectPhase(web, wire.PhaseRunning, "")
				d.expectPhase(api, wire.PhaseFailed, "bind mount refused")

				d.gateway.issue("e1", deployments{api: {"back": mounting(filepath.Join(srv, tt.second), false)}})
				d.pass(2 * time.Minute)
				d.expectPhase(api, wire.PhaseRunning, "")
			})
		})
	}
}

// TestNestedMountsOfAnEarlierAgent: the one inside of the other ends.
func TestNestedMountsOfAnEarlierAgent(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		outer, inner := filepath.Join(srv, "data"), filepath.Join(srv, "data", "sub")
		d.gateway.issue("e1", deployments{web: {"front": mounting(outer, false)}})
		d.settle()
		d.stop()
		id, err := d.podman.Create(t.Context(), &container.Spec{
			Ref: api, Service: "back", Image: image, Restart: container.RestartAlways, Mounts: []container.Mount{{HostPath: inner, Path: "/m"}},
		})
		d.must(errors.Join(err, d.podman.Start(t.Context(), id)))
		d.podman.Calls()
		d.start()
		d.settle()
		d.expectCalls("stop shop_api_back", "remove shop_api_back")
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// TestMountsAreCheckedAfterThePull: a pull may take an hour.
func TestMountsAreCheckedAfterThePull(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		sub := filepath.Join(srv, "data", "sub")
		d.podman.PullFunc = func(context.Context, string) error {
			d.replaceByLink(sub)
			return nil
		}
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
			mounting(sub, false)(s)
			s.Image = "localhost/other:1"
		}}})
		d.settle()
		d.expectPhase(web, wire.PhaseFailed, "bind mount refused")
		d.expectCalls("pull localhost/other:1")
	})
}

// What agent.yaml does not allow fails on the device, which says so itself, with the field:
// the namespace allows it, so nobody else would.
func TestTheDeviceSaysWhatItDoesNotAllow(t *testing.T) {
	withMounts(t, func(d *device, srv string) {
		says := func(status wire.ConditionStatus, text string) {
			t.Helper()
			if c := d.condition(wire.ConditionScoresAllowed); c.Status != status || !strings.Contains(c.Message, text) || (c.Message == "") != (text == "") {
				t.Errorf("got %+v, want %s and %q", c, status, text)
			}
		}
		d.pass(6 * time.Minute)
		says(wire.ConditionTrue, "")
		capable := func(s *score.Service) {
			s.SecurityContext = &score.SecurityContext{Capabilities: score.Capabilities{Add: []string{"SYS_TIME"}}}
		}
		d.gateway.issue("e1", deployments{web: {"front": capable}, api: {"back": mounting(srv, true)}})
		d.pass(6 * time.Minute)
		d.expectPhase(web, wire.PhaseFailed, "service front: securityContext.capabilities.add[0]: allow.capabilities in agent.yaml does not list SYS_TIME")
		d.expectPhase(api, wire.PhaseRunning, "")
		says(wire.ConditionFalse, "shop/web: service front: securityContext.capabilities.add[0]: allow.capabilities in agent.yaml does not list SYS_TIME")
		d.gateway.issue("e1", deployments{web: {"front": mounting("/usr", true)}, api: {"back": mounting(srv, true)}})
		d.pass(6 * time.Minute)
		says(wire.ConditionFalse, "shop/web: ")
		says(wire.ConditionFalse, "/usr")
		d.gateway.issue("e1", deployments{web: {"front": mounting(filepath.Join(srv, "none"), true)}, api: {"back": mounting(srv, true)}})
		d.pass(6 * time.Minute)
		says(wire.ConditionTrue, "") // it is allowed, and not there
		d.gateway.issue("e1", deployments{web: {"front": mounting("/usr", true)}})
		d.pass(6 * time.Minute)
		says(wire.ConditionFalse, "/usr")
		d.gateway.issue("e1", deployments{})
		d.pass(6 * time.Minute)
		says(wire.ConditionTrue, "")
	})
}
