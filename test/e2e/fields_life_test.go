//go:build linux

package e2e_test

func init() {
	shownElsewhere["initContainers"] = "their fields are those of services; case life runs one"
	shownElsewhere["services.schedule"] = "case life-job runs one; clocks are set in pkg/agent/container/schedule alone"
	shownElsewhere["services.lifecycle.postStart.httpGet.scheme"] = "TestPreStop of pkg/agent; it is asked as httpGet of probes is"
	shownElsewhere["services.lifecycle.postStart.httpGet.httpHeaders"] = "TestPreStop of pkg/agent; it is asked as httpGet of probes is"
	shownElsewhere["services.lifecycle.preStop.httpGet.scheme"] = "TestPreStop of pkg/agent; it is asked as httpGet of probes is"
	shownElsewhere["services.lifecycle.preStop.httpGet.httpHeaders"] = "TestPreStop of pkg/agent; it is asked as httpGet of probes is"
	shownElsewhere["services.lifecycle.preStop.timeoutSeconds"] = "TestLifeOfServices of pkg/score: it is refused"
}

// When services start, what is done then and at their end, and what runs to its end: a database
// with an init container and a probe, a migration, and an application that depends on both; and
// jobs on a schedule.
func init() {
	const data = ", volumes: [{name: data, mountPath: /data}]"
	fieldCases = append(
		fieldCases,
		fieldCase{
			name: "life",
			data: `initContainers: [{name: init, image: 'localhost/hello:1', command: [sh, -c, 'echo init >>/data/order']` + data + `}]`,
			services: []string{
				`{name: app, image: 'localhost/hello:1', command: [sh, -c, 'echo app >>/data/order; trap "exit 0" TERM; while :; do sleep 1 & wait; done'],` +
					` dependsOn: [{service: db, condition: Healthy}, {service: migrate, condition: Completed}],` +
					` lifecycle: {postStart: {exec: {command: [sh, -c, 'echo hooked >>/data/hooks']}, timeoutSeconds: 20}, preStop: {exec: {command: [sh, -c, 'echo asked >>/data/hooks']}}}` + data + `}`,
				`{name: db, image: 'localhost/hello:1', command: [sh, -c, 'echo db >>/data/order; sleep 3; touch /tmp/ready; trap "exit 0" TERM; while :; do sleep 1 & wait; done'],` +
					` readinessProbe: {exec: {command: [test, -f, /tmp/ready]}, periodSeconds: 1}` + data + `}`,
				`{name: migrate, image: 'localhost/hello:1', command: [sh, -c, 'echo migrated >>/data/order'], restart: OnFailure, dependsOn: [{service: db}]` + data + `}`,
			},
			shows: []shown{
				{fields: "services.dependsOn.service services.dependsOn.condition", in: "app", run: "cat /data/order", want: "init\ndb\nmigrated\napp"},
				{fields: "services.lifecycle.postStart.exec.command services.lifecycle.postStart.timeoutSeconds", in: "app", run: "cat /data/hooks", want: "hooked"},
				{
					fields: "services.lifecycle.preStop.exec.command", in: onDevice,
					run: "fleet-agent restart fields/life/app >/dev/null && " + forWorkload + "podman exec fields_life_db sh -c 'sleep 5; cat /data/hooks /data/order'",
					// The init container ran once, and nothing else was restarted.
					want: "hooked\nasked\nhooked\ninit\ndb\nmigrated\napp\napp",
				},
			},
		},
		// A program that is asked over its own port to finish, in a container whose ports nobody
		// publishes.
		fieldCase{
			name: "life-http",
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: drain, namespace: fields}, data: {` +
				`drain: "#!/bin/sh\necho drained >>/data/hooks\nprintf 'Content-Type: text/plain\\r\\n\\r\\nok'\n"}}`,
			service: `command: [sh, -c, 'echo started >>/data/hooks; trap "exit 0" TERM; httpd -f -p 8080 -h /www & wait'],` +
				` readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}, lifecycle: {preStop: {httpGet: {port: 8080, path: /cgi-bin/drain}}},` +
				` volumes: [{name: data, mountPath: /data}, {configMap: {name: drain, defaultMode: 493}, mountPath: /www/cgi-bin}]`,
			shows: []shown{{
				fields: "services.lifecycle.preStop.httpGet.port services.lifecycle.preStop.httpGet.path", in: onDevice,
				run:  "fleet-agent restart fields/life-http/web >/dev/null && " + forWorkload + "podman exec fields_life-http_web cat /data/hooks",
				want: "started\ndrained\nstarted",
			}},
		},
		// A program that is asked to warm up at each start of a service beside it, before that
		// is ready. It listens already, since a hook is tried once.
		fieldCase{
			name: "life-post-http",
			data: `network: {mode: Shared}`,
			objects: `{apiVersion: v1, kind: ConfigMap, metadata: {name: warm, namespace: fields}, data: {` +
				`warm: "#!/bin/sh\necho warmed by $REQUEST_METHOD >>/data/hooks\nprintf 'Content-Type: text/plain\\r\\n\\r\\nok'\n"}}`,
			service: `command: [sh, -c, 'echo started >>/data/hooks; trap "exit 0" TERM; while :; do sleep 1 & wait; done'],` +
				` dependsOn: [{service: beside, condition: Healthy}], lifecycle: {postStart: {httpGet: {port: 8080, path: /cgi-bin/warm}}},` +
				` volumes: [{name: data, mountPath: /data}]`,
			services: []string{
				`{name: beside, image: 'localhost/hello:1', readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1},` +
					` volumes: [{name: data, mountPath: /data}, {configMap: {name: warm, defaultMode: 493}, mountPath: /www/cgi-bin}]}`,
			},
			shows: []shown{{
				fields: "services.lifecycle.postStart.httpGet.port services.lifecycle.postStart.httpGet.path", in: onDevice,
				run: "fleet-agent restart fields/life-post-http/web >/dev/null && for i in $(seq 100); do " +
					"out=$(" + forWorkload + "podman exec fields_life-post-http_web cat /data/hooks); test $(echo \"$out\" | wc -l) -ge 4 && break; sleep 0.1; done; echo \"$out\"",
				want: "started\nwarmed by GET\nstarted\nwarmed by GET",
			}},
		},
		fieldCase{
			name:    "life-init",
			service: "restart: Always",
			data:    `initContainers: [{name: broken, image: 'localhost/hello:1', command: [sh, -c, 'echo no such table; exit 3']}]`,
			fails:   "init container broken: exited with code 3.*, last output: no such table",
		},
		fieldCase{
			name:    "life-job",
			service: "",
			services: []string{
				`{name: web, image: 'localhost/hello:1'` + data + `}`,
				`{name: job, image: 'localhost/hello:1', command: [sh, -c, 'date -u >>/data/runs'], dependsOn: [{service: web, condition: Healthy}],` +
					` schedule: {cron: "* * * * *", timeZone: Europe/Zurich, concurrencyPolicy: Replace, missedRuns: RunOnce}` + data + `}`,
			},
			shows: []shown{{
				fields: "services.dependsOn.service", run: "for i in $(seq 90); do test -s /data/runs && break; sleep 1; done; head -n1 /data/runs | grep -c UTC", want: "1",
			}},
		},
		fieldCase{
			name: "life-late-job",
			services: []string{
				`{name: web, image: 'localhost/hello:1'}`,
				`{name: job, image: 'localhost/hello:1', command: [sleep, "1000"], terminationGracePeriodSeconds: 0, timeoutSeconds: 2, schedule: {cron: "* * * * *"}}`,
			},
			fails: "service job: the last run was stopped: it did not end within 2 s",
			shows: []shown{{fields: "services.timeoutSeconds", run: "echo ready", want: "ready"}},
		},
	)
}
