//go:build linux

package e2e_test

// What a service is made of: image, command, environment, ports, volumes and Secrets.
func init() {
	fieldCases = append(
		fieldCases,
		fieldCase{
			name:    "command",
			service: `command: [sh, -c, 'echo "$0 $*" >/tmp/given; sleep 1000 & trap "exit 0" TERM; wait'], args: [first, two words], restart: OnFailure, terminationGracePeriodSeconds: 3`,
			shows: []shown{
				{fields: "services.command services.args", run: "cat /tmp/given", want: "first two words"},
				{fields: "services.name services.image", run: "cat /www/index.html", want: "Hello from localhost/hello:1"},
				{fields: "services.terminationGracePeriodSeconds", in: onDevice, run: podmanInspect("command", "{{.Config.StopTimeout}}"), want: "3"},
			},
		},
		fieldCase{
			name:    "env",
			objects: `{apiVersion: v1, kind: Secret, metadata: {name: env, namespace: fields}, stringData: {password: "quite secret"}}`,
			service: `env: [{name: PLAIN, value: some text}, {name: SECRET, valueFrom: {secretKeyRef: {name: env, key: password}}}]`,
			shows: []shown{
				{fields: "services.env.name services.env.value", run: "echo $PLAIN", want: "some text"},
				{fields: "services.env.valueFrom.secretKeyRef.name services.env.valueFrom.secretKeyRef.key", run: "echo $SECRET", want: "quite secret"},
			},
		},
		fieldCase{
			name:    "ports",
			service: `ports: [{hostPort: 18201, containerPort: 8080, hostIP: 127.0.0.1, protocol: TCP}]`,
			shows: []shown{{
				fields: "services.ports.hostPort services.ports.containerPort services.ports.hostIP services.ports.protocol", in: onDevice,
				run: "curl -sS http://127.0.0.1:18201/; ss -Hltn sport = 18201 | awk '{print $4}'", want: "Hello from localhost/hello:1\n127.0.0.1:18201",
			}},
		},
		fieldCase{
			name:    "restart",
			service: `command: [sh, -c, 'date >>/data/runs; exit 0'], restart: Never, volumes: [{name: data, mountPath: /data}]`,
			services: []string{
				`{name: again, image: 'localhost/hello:1', command: [sh, -c, 'echo run >>/data/runs; test $(wc -l </data/runs) -gt 1 || exit 1; sleep 1000'], restart: OnFailure, terminationGracePeriodSeconds: 0, volumes: [{name: runs, mountPath: /data}]}`,
			},
			shows: []shown{
				{fields: "services.restart", in: "again", run: "cat /data/runs", want: "run\nrun"},
				{fields: "services.restart", in: onDevice, run: podmanInspect("restart", "{{.State.Status}}"), want: "exited"},
			},
		},
		fieldCase{
			name:    "stop-signal",
			prepare: "install -d -o fleet-workload /srv/stop-signal",
			service: `command: [sh, -c, 'trap "echo asked >/data/asked; exit 0" USR1; while :; do sleep 1 & wait; done'], stopSignal: SIGUSR1, restart: Never, volumes: [{hostPath: /srv/stop-signal, mountPath: /data}]`,
			shows: []shown{{
				fields: "services.stopSignal", in: onDevice,
				run: forWorkload + "podman stop fields_stop-signal_web >/dev/null; cat /srv/stop-signal/asked", want: "asked",
			}},
		},
		fieldCase{
			name:    "volumes",
			objects: `{apiVersion: v1, kind: Secret, metadata: {name: files, namespace: fields}, stringData: {key: "a key"}}`,
			prepare: "install -d -o fleet-workload /srv/volumes && echo kept >/srv/volumes/file",
			service: `volumes: [{name: data, mountPath: /data}, {hostPath: /srv/volumes, mountPath: /host, readOnly: true}, {secretName: files, mountPath: /secret}]`,
			shows: []shown{
				{fields: "services.volumes.name services.volumes.mountPath", run: "echo written >/data/file && cat /data/file", want: "written"},
				{fields: "services.volumes.hostPath services.volumes.readOnly", run: "cat /host/file; touch /host/new", want: "kept\n.*Read-only file system"},
				{fields: "services.volumes.secretName", run: "cat /secret/key", want: "a key"},
			},
		},
	)
}
