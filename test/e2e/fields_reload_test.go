//go:build linux

package e2e_test

import (
	"fmt"
	"strings"
)

// reloadObjects are a ConfigMap and a Secret with a content.
func reloadObjects(content string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: changing, namespace: %[1]s}, data: {value: %[2]s}}
---
{apiVersion: v1, kind: Secret, metadata: {name: changing, namespace: %[1]s}, stringData: {value: %[2]s}}`, fieldsNamespace, content)
}

// Services with a file of what changes: one is told by a signal, one not at all, and the
// control is replaced, as by default. Each counts its signals.
func init() {
	const counts = `image: "localhost/hello:1", terminationGracePeriodSeconds: 0, command: [sh, -c, "trap 'echo told >>/tmp/signals' HUP; touch /tmp/ready; while :; do sleep 1 & wait $!; done"]`
	const configMap, secret = "{configMap: {name: changing}, mountPath: /conf", "{secret: {secretName: changing}, mountPath: /conf"
	fieldCases = append(fieldCases, fieldCase{
		name: "reload", objects: reloadObjects("first"), data: "network: {mode: Private}",
		services: []string{
			"{name: signal, " + counts + ", volumes: [" + configMap + ", reload: Signal}]}",
			"{name: none, " + counts + ", volumes: [" + secret + ", reload: None}]}",
			"{name: replaced, " + counts + ", volumes: [" + configMap + "}]}",
		},
		shows: []shown{
			{fields: "services.volumes.reload", in: "signal", run: "cat /conf/value; ls /tmp", want: "first\\s*ready"},
			{fields: "services.volumes.reload", in: "none", run: "cat /conf/value; ls /tmp", want: "first\\s*ready"},
			{fields: "services.volumes.reload", in: "replaced", run: "cat /conf/value; ls /tmp", want: "first\\s*ready"},
		},
	})
}

// reload changes what services have files of, and looks from inside of the containers.
func (s *site) reload() {
	s.t.Helper()
	ids := func() []string {
		var list []string
		for _, service := range []string{"signal", "none", "replaced"} {
			list = append(list, s.podman("inspect", "--type", "container", "--format", "{{.Id}} {{.State.StartedAt}}", fieldsNamespace+"_reload_"+service))
		}
		return list
	}
	before := ids()
	s.applyAll(reloadObjects("second"))
	for service, want := range map[string]string{"signal": "second told", "none": "second", "replaced": "second"} {
		s.eventually(service+" sees the change", func() error {
			r, err := s.machine.RunAs(s.t.Context(), "fleet-workload", "podman", "exec", fieldsNamespace+"_reload_"+service, "sh", "-c", "cat /conf/value; echo; cat /tmp/signals 2>/dev/null; true")
			if got := strings.Join(strings.Fields(r.Stdout), " "); err != nil || got != want {
				return fmt.Errorf("it shows %q, %w", got+r.Stderr, err)
			}
			return nil
		})
	}
	after := ids()
	if before[0] != after[0] || before[1] != after[1] || before[2] == after[2] {
		s.t.Errorf("containers were %q, and are %q: only the last one is to be another", before, after)
	}
}
