package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// An agent is asked for nothing that it cannot do, and both objects say so.
func TestAgentsAreAskedWhatTheyCanDo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	other, podman := []string{"score/Other"}, []string{string(wire.CanPodmanV0)}
	current, _ := s.device(sim.Config{Device: "edge-1", Token: token, Capabilities: podman})
	unsaid, _ := s.device(sim.Config{Device: "edge-2", Token: token}) // of version 0.1.0
	outdated, stop := s.device(sim.Config{Device: "edge-3", Token: token, Capabilities: other})
	s.capabilities("edge-3", other, "")
	s.capabilities("edge-2", nil, "")
	s.create(deployment("hello", "a"))
	runs(t, current, "default/hello")
	runs(t, unsaid, "default/hello")
	if e := runs(t, outdated, "default/hello").Entries[0]; !e.Hold {
		t.Errorf("an agent that cannot run it is told %+v", e)
	}
	d := s.aggregate("default", "hello", counts{3, 2, 0, 1})
	available := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeploymentAvailable)
	if d.Status.Aggregate.Outdated != 1 || !strings.Contains(available.Message, "1 device needs a newer agent") {
		t.Errorf("the Deployment says %+v, %q", d.Status.Aggregate, available.Message)
	}
	s.capabilities("edge-3", other, "Deployment default/hello needs score/PodmanV0: upgrade fleet-agent on the device")

	stop()
	outdated.Capabilities = podman // it was upgraded
	s.run(outdated)
	s.aggregate("default", "hello", counts{3, 3, 0, 0})
	s.capabilities("edge-3", podman, "the agent can do what every Deployment needs")
}

// capabilities waits until a Device shows what its agent can do, and the message of
// condition AgentOutdated, which is empty when there is no such condition.
func (s *server) capabilities(device string, can []string, message string) {
	s.t.Helper()
	eventually(s.t, "capabilities of "+device, func() error {
		d, err := s.client().Devices().Get(s.t.Context(), device, metav1.GetOptions{})
		if err != nil {
			return err
		}
		said := ""
		if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceAgentOutdated); c != nil {
			said = c.Message
		}
		if !slices.Equal(d.Status.Capabilities, can) || said != message {
			return fmt.Errorf("they are %v, %q", d.Status.Capabilities, said)
		}
		return nil
	})
}
