//go:build linux

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
)

// healthProgram is where a machine has the program of directory health, for containers.
const healthProgram = "/srv/grpc/health"

// Probes by gRPC, of a program that a library for it was made with. Nobody publishes its port.
func init() {
	const mounted = ", volumes: [{hostPath: /srv/grpc, mountPath: /grpc, readOnly: true}]"
	fieldCases = append(
		fieldCases,
		fieldCase{
			name: "probe-grpc",
			service: `command: [/grpc/health], readinessProbe: {grpc: {port: 9000, service: app}, periodSeconds: 1, failureThreshold: 1},` +
				` livenessProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 3}` + mounted,
			shows: []shown{{
				fields: "services.readinessProbe", in: onDevice,
				run: "is() { for i in $(seq 200); do fleet-agent status | grep -q \"^fields *probe-grpc .*$1\" && echo $1 && return; sleep 0.1; done; fleet-agent status; }\n" +
					"first=$(" + podmanInspect("probe-grpc", "{{.State.StartedAt}}") + ")\n" +
					forWorkload + "podman exec fields_probe-grpc_web touch /tmp/sick-app; is Pending\n" +
					forWorkload + "podman exec fields_probe-grpc_web rm /tmp/sick-app; is Running\n" +
					"test \"$first\" = \"$(" + podmanInspect("probe-grpc", "{{.State.StartedAt}}") + ")\" && echo the same run",
				want: "Pending\nRunning\nthe same run",
			}},
		},
		fieldCase{
			name:    "probe-grpc-sick",
			service: `command: [sh, -c, 'touch /tmp/sick; exec /grpc/health'], livenessProbe: {grpc: {port: 9000}, periodSeconds: 1, failureThreshold: 2}` + mounted,
			fails:   "service web: was stopped: its liveness probe failed: health of port 9000 is 2, which is not SERVING",
		},
		fieldCase{
			name:    "probe-grpc-unknown",
			service: `command: [/grpc/health], startupProbe: {grpc: {port: 9000, service: other}, periodSeconds: 1, failureThreshold: 2}` + mounted,
			fails:   "service web: was stopped: its startup probe failed: health of port 9000 answered with status 5 of gRPC",
		},
	)
}

// copyHealth gives the machine the program of directory health.
func (s *site) copyHealth() {
	s.t.Helper()
	program := filepath.Join(s.t.TempDir(), "health")
	build := exec.CommandContext(s.t.Context(), "go", "build", "-o", program, "./health")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("building the server of health: %v: %s", err, out)
	}
	s.must(s.machine.CopyIn(s.t.Context(), program, healthProgram, 0o755))
}
