//go:build linux

package e2e_test

import (
	"os"
	"strings"
)

// written is a command that says whether a device could be written to by the container's own
// process, whose groups those of podman exec are not.
const written = `command: [sh, -c, 'echo x >/dev/radio && echo written >/tmp/result; trap "exit 0" TERM; while :; do sleep 1 & wait; done'], `

// What a container may have besides.
func init() {
	fieldCases = append(
		fieldCases,
		fieldCase{
			name: "options",
			service: `workingDir: /srv/new/place, hostname: box, shmSize: 8Mi, init: true, oomScoreAdj: 500, ulimits: [{name: nofile, soft: 200, hard: 300}],
				labels: {example.com/team: press}, annotations: {example.com/note: kept}`,
			shows: []shown{
				{fields: "services.workingDir", run: "readlink /proc/$(awk '{print $1}' /proc/1/task/1/children)/cwd", want: "/srv/new/place"},
				{fields: "services.hostname", run: "hostname", want: "box"},
				{fields: "services.shmSize", run: "df -k /dev/shm | awk 'END{print $2}'", want: "8192"},
				{fields: "services.init", run: "cat /proc/1/comm", want: ".*init|catatonit"},
				{fields: "services.oomScoreAdj", run: "cat /proc/1/oom_score_adj", want: "500"},
				{fields: "services.ulimits.name services.ulimits.soft services.ulimits.hard", run: "grep 'open files' /proc/1/limits", want: "Max open files +200 +300 +files"},
				{fields: "services.labels", in: onDevice, run: podmanInspect("options", `{{index .Config.Labels "example.com/team"}}`), want: "press"},
				{fields: "services.annotations", in: onDevice, run: podmanInspect("options", `{{index .Config.Annotations "example.com/note"}}`), want: "kept"},
			},
		},
		fieldCase{
			name:    "log",
			service: `log: {maxSize: 64Ki}, command: [sh, -c, 'yes 0123456789012345678901234567890123456789 | head -n 9000; trap "exit 0" TERM; while :; do sleep 1 & wait; done']`,
			shows: []shown{{
				fields: "services.log.maxSize", in: onDevice, run: "stat -c %s $(" + podmanInspect("log", "{{.HostConfig.LogConfig.Path}}") + ")", want: "[0-9]{1,5}",
			}},
		},
		fieldCase{
			name: "rights",
			service: `securityContext: {runAsUser: 1000, runAsGroup: 1001, supplementalGroups: [1002], readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE, NET_ADMIN]},
				seccompProfile: {type: Unconfined}, sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "80"}, {name: net.ipv4.ip_forward, value: "1"}]}`,
			services: []string{`{name: usual, image: 'localhost/hello:1', securityContext: {allowPrivilegeEscalation: true, seccompProfile: {type: RuntimeDefault}}}`},
			shows: []shown{
				{fields: "services.securityContext.runAsUser services.securityContext.runAsGroup services.securityContext.supplementalGroups", run: "id -u; id -g; id -G", want: "1000\n1001\n1001 1002"},
				{fields: "services.securityContext.readOnlyRootFilesystem", run: "touch /dev/shm/file; touch /file", want: "touch: /file: Read-only file system"},
				{fields: "services.securityContext.allowPrivilegeEscalation", run: "grep NoNewPrivs /proc/1/status", want: "NoNewPrivs:\t1"},
				{fields: "services.securityContext.allowPrivilegeEscalation", in: "usual", run: "grep NoNewPrivs /proc/1/status", want: "NoNewPrivs:\t0"},
				{fields: "services.securityContext.capabilities.add services.securityContext.capabilities.drop", run: "grep CapBnd /proc/1/status", want: "CapBnd:\t0000000000001400"},
				{fields: "services.securityContext.sysctls.name services.securityContext.sysctls.value", run: "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward", want: "80\n1"},
				{
					fields: "services.securityContext.seccompProfile.type", in: onDevice,
					run:  `filters() { ` + forWorkload + `podman exec fields_rights_$1 awk '/^Seccomp_filters/ {print $2}' /proc/1/status; }; echo $(($(filters usual) - $(filters web)))`,
					want: "1",
				},
			},
		},
		fieldCase{
			name:    "empty-dir",
			prepare: "echo a line >/srv/one.conf",
			service: `volumes: [{emptyDir: {medium: Memory, sizeLimit: 4Mi}, mountPath: /cache}, {hostPath: /srv/one.conf, mountPath: /etc/one.conf, readOnly: true}]`,
			shows: []shown{
				{fields: "services.volumes.emptyDir.medium services.volumes.emptyDir.sizeLimit", run: "touch /cache/x && df -k /cache | awk 'END{print $1, $2}'", want: "tmpfs 4096"},
				{fields: "services.volumes.hostPath", run: "cat /etc/one.conf; echo >/etc/one.conf", want: "a line\n.*Read-only file system"},
			},
		},
		fieldCase{
			name:    "size-limit",
			service: `volumes: [{name: data, mountPath: /data, sizeLimit: 64Mi}]`,
			fails:   `volumes\[\].sizeLimit: podman of this device cannot limit named volumes`,
			shows: []shown{{
				fields: "services.volumes.sizeLimit", in: onDevice, run: forWorkload + "podman volume exists fields_size-limit_data || echo none", want: "none",
			}},
		},
		fieldCase{
			name:    "owner",
			prepare: "install -d -o fleet-workload -g fleet-workload /srv/owner",
			service: `userNamespace: {uid: 1000, gid: 1001}, securityContext: {runAsUser: 1000, runAsGroup: 1001}, volumes: [{hostPath: /srv/owner, mountPath: /data}]`,
			services: []string{
				`{name: root, image: 'localhost/hello:1', userNamespace: {uid: 1000}, volumes: [{hostPath: /srv/owner, mountPath: /data}]}`,
			},
			shows: []shown{
				{fields: "services.userNamespace.uid services.userNamespace.gid", run: "touch /data/file && stat -c '%u %g' /data/file", want: "1000 1001"},
				{fields: "services.userNamespace.uid", in: onDevice, run: "stat -c %U:%G /srv/owner/file", want: "fleet-workload:fleet-workload"},
				{fields: "services.userNamespace.uid", in: "root", run: "id -u; stat -c '%u %g' /data", want: "0\n1000 1000"},
			},
		},
		fieldCase{
			name: "device",
			prepare: `mkdir -p /dev/serial/by-id; mknod -m 0660 /dev/ttyTEST0 c 1 3; chgrp dialout /dev/ttyTEST0; ln -s ../../ttyTEST0 /dev/serial/by-id/usb-radio
				usermod -aG dialout fleet-workload; systemctl restart user@$(id -u fleet-workload).service`,
			service: written + `devices: [{path: /dev/serial/by-id/usb-radio, mountPath: /dev/radio}]`,
			shows:   []shown{{fields: "services.devices.path services.devices.mountPath", run: "cat /tmp/result", want: "written"}},
		},
		fieldCase{
			name:     "device-waits",
			service:  written + `devices: [{path: /dev/serial/by-id/usb-later, mountPath: /dev/radio}]`,
			services: []string{`{name: beside, image: 'localhost/hello:1'}`},
			fails:    `service web: devices\[0\]: /dev/serial/by-id/usb-later is not there: the service starts once it is`,
			shows: []shown{
				{fields: "services.name", in: "beside", run: "echo runs", want: "runs"}, // what needs no device does not wait
				{
					fields: "services.devices.path", in: onDevice,
					run: `ln -s ../../ttyTEST0 /dev/serial/by-id/usb-later
						for i in $(seq 100); do ` + forWorkload + `podman exec fields_device-waits_web cat /tmp/result 2>/dev/null && break; sleep 0.3; done`,
					want: "written",
				},
			},
		},
		fieldCase{
			name:    "device-refused",
			service: `devices: [{path: /dev/null}]`,
			fails:   `service web: bind mount refused: devices\[0\]: allow.devices in agent.yaml does not list /dev/null`,
		},
		fieldCase{
			name:    "cdi",
			prepare: `mkdir -p /etc/cdi; echo '{"cdiVersion": "0.5.0", "kind": "example.com/accelerator", "devices": [{"name": "one", "containerEdits": {"env": ["CDI=given"], "deviceNodes": [{"path": "/dev/null"}]}}]}' >/etc/cdi/example.json`,
			service: `cdiDevices: ["example.com/accelerator=one"]`,
			shows:   []shown{{fields: "services.cdiDevices", run: "tr '\\0' '\\n' </proc/1/environ | grep CDI", want: "CDI=given"}},
		},
		fieldCase{
			name:    "host",
			prepare: "mkdir -p /run/udev/data; echo of udev >/run/udev/data/test",
			service: `hostServices: [udev, dbus], hostPID: true, hostIPC: true`,
			shows: []shown{
				{fields: "services.hostServices", run: "cat /run/udev/data/test; test -S /run/dbus/system_bus_socket && echo bus; touch /run/udev/x", want: "of udev\nbus\n.*Read-only file system"},
				{fields: "services.hostPID", run: "cat /proc/1/comm", want: "systemd"},
				{
					fields: "services.hostIPC", in: onDevice,
					run: `test "$(readlink /proc/1/ns/ipc)" = "$(` + forWorkload + `podman exec fields_host_web readlink /proc/self/ns/ipc)" && echo same`, want: "same",
				},
			},
		},
		limitsCase(),
	)
}

// limitsCase: machines of the lab have the controllers of control groups that their host has. A
// limit that they cannot keep is refused, and test/vm shows what it does.
func limitsCase() fieldCase {
	c := fieldCase{
		name:    "limits",
		service: `resources: {limits: {cpu: 500m, memory: 64Mi, swap: 32Mi, pids: 50}, requests: {memory: 16M}}`,
		shows: []shown{{
			fields: "services.resources.limits.cpu services.resources.limits.pids services.resources.limits.swap services.resources.requests.memory",
			run:    "cd /sys/fs/cgroup && cat cpu.max pids.max memory.swap.max memory.low memory.max", want: "50000 100000\n50\n33554432\n15998976\n67108864",
		}},
	}
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers") // none where the hierarchies are several
	for _, needed := range []string{"cpu", "memory", "pids"} {
		if !strings.Contains(" "+string(controllers)+" ", needed) {
			c.fails = `service web: resources\.[a-z.]*: the kernel of this device does not let containers limit`
			c.shows[0].in, c.shows[0].run, c.shows[0].want = onDevice, forWorkload+"podman container exists fields_limits_web || echo none", "none"
			break
		}
	}
	return c
}
