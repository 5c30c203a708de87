//go:build linux

package e2e_test

// outsideAnswer is what the resolver of the device answers to all names. Services of a network
// are known by their names before it is asked, and names outside by what it answers.
const outsideAnswer = "192.0.2.77"

// page fetches the page of a service by a name.
func page(name string) string { return "timeout 20 wget -qO- http://" + name + ":8080/" }

// pageSoon is page by a name that may not be known at a moment: podman's server of names begins
// anew with each container that starts.
func pageSoon(name string) string {
	return "for i in $(seq 20); do " + page(name) + " && break; sleep 1; done 2>/dev/null"
}

// helloPage is what the image serves.
const helloPage = "Hello from localhost/hello:1"

// How services reach each other, and others them.
func init() {
	const peer = `{name: peer, image: 'localhost/hello:1'}`
	const alone = "exec sleep 100000"
	fieldCases = append(
		fieldCases,
		fieldCase{
			name:     "net-default",
			service:  `ports: [{hostPort: 18301, containerPort: 8080}]`,
			services: []string{peer},
			shows: []shown{
				{fields: "services.name", run: pageSoon("peer"), want: helloPage},
				{fields: "services.name", in: "peer", run: pageSoon("web"), want: helloPage},
				{fields: "services.ports.hostPort", in: onDevice, run: "curl -sS --max-time 20 http://127.0.0.1:18301/", want: helloPage},
				{fields: "services.name", run: "timeout 20 nslookup outside.example.com", want: ".*" + outsideAnswer + ".*"},
			},
		},
		fieldCase{
			name:     "net-bridge",
			data:     `network: {mode: Bridge, ipv6: true, hostAliases: [{ip: 192.0.2.7, hostnames: [plc, plc.line-1]}, {ip: "2001:db8::7", hostnames: [scale]}], dns: {searches: [plant.example.com], options: ["ndots:2"]}}`,
			service:  `command: [sh, -c, '` + alone + `'], terminationGracePeriodSeconds: 0`,
			services: []string{peer},
			shows: []shown{
				{fields: "network.mode", run: page("peer"), want: helloPage},
				{fields: "network.ipv6", run: "grep -vc ' lo$\\|^fe80' /proc/net/if_inet6", want: "[1-9]"},
				{fields: "network.hostAliases.ip network.hostAliases.hostnames", run: "for n in plc plc.line-1 scale; do awk -v n=$n '{for (i = 2; i <= NF; i++) if ($i == n) print $1}' /etc/hosts; done", want: "192.0.2.7\n192.0.2.7\n2001:db8::7"},
				{fields: "network.dns.searches network.dns.options", run: "grep ^search /etc/resolv.conf; grep ^options /etc/resolv.conf", want: "search [^\n]*plant.example.com[^\n]*\n.*ndots:2.*"},
			},
		},
		fieldCase{
			name:     "net-private",
			data:     `network: {mode: Private, dns: {nameservers: [192.0.2.53, 192.0.2.54]}}`,
			service:  `command: [sh, -c, '` + alone + `'], terminationGracePeriodSeconds: 0`,
			services: []string{peer},
			shows: []shown{
				{fields: "network.dns.nameservers", run: "grep ^nameserver /etc/resolv.conf", want: "nameserver 192.0.2.53\nnameserver 192.0.2.54"},
				{fields: "network.mode", run: "timeout 5 wget -qO- http://peer:8080/ >/dev/null 2>&1 || echo unknown", want: "unknown"},
			},
		},
		fieldCase{
			name:     "net-shared",
			data:     `network: {mode: Shared, hostAliases: [{ip: 192.0.2.8, hostnames: [shared-alias]}]}`,
			service:  `ports: [{hostPort: 18302, containerPort: 8080}]`,
			services: []string{`{name: beside, image: 'localhost/hello:1', command: [sh, -c, '` + alone + `'], terminationGracePeriodSeconds: 0}`},
			shows: []shown{
				{fields: "network.mode", in: "beside", run: page("127.0.0.1"), want: helloPage},
				{fields: "services.ports.hostPort", in: onDevice, run: "curl -sS --max-time 20 http://127.0.0.1:18302/", want: helloPage},
				{fields: "network.hostAliases.hostnames", in: "beside", run: "grep -c 'shared-alias' /etc/hosts", want: "1"},
			},
		},
		fieldCase{
			name:    "net-host",
			data:    `network: {mode: Host}`,
			service: `command: [httpd, -f, -p, "18303", -h, /www], terminationGracePeriodSeconds: 0, ports: [{hostPort: 18303, containerPort: 18303}], readinessProbe: {httpGet: {port: 18303}, periodSeconds: 1}`,
			shows: []shown{{
				fields: "network.mode", in: onDevice,
				run:  `curl -sS --max-time 20 http://127.0.0.1:18303/; test "$(readlink /proc/1/ns/net)" = "$(` + forWorkload + `podman exec fields_net-host_web readlink /proc/self/ns/net)" && echo same`,
				want: helloPage + "\nsame",
			}},
		},
		fieldCase{
			name:    "net-none",
			data:    `network: {mode: None}`,
			service: `restart: Always`,
			shows: []shown{
				{fields: "network.mode", run: "ls /sys/class/net; " + page("127.0.0.1"), want: "lo\n" + helloPage},
			},
		},
		// Port 53 of the device: at one address, the control, names go on being known.
		fieldCase{
			name: "net-names", prepare: "sysctl -w net.ipv4.ip_unprivileged_port_start=53",
			service:  `ports: [{hostPort: 53, containerPort: 8080, hostIP: 127.0.0.1}]`,
			services: []string{peer},
			shows: []shown{
				{fields: "services.ports.hostIP", run: pageSoon("peer"), want: helloPage},
				{fields: "services.ports.hostIP", in: onDevice, run: "curl -sS --max-time 20 http://127.0.0.1:53/", want: helloPage},
			},
		},
		fieldCase{
			name: "net-names-all", service: `ports: [{hostPort: 53, containerPort: 8080, protocol: UDP}]`, services: []string{peer},
			fails: `service web: ports\[\]\.hostPort 53 at every address would take the questions for names away .* give hostIP`,
			shows: []shown{{fields: "services.ports.hostPort", in: onDevice, run: "echo", want: ""}},
		},
		fieldCase{
			name: "net-taken", prepare: "systemd-run --unit=intruder busybox httpd -f -p 18399 -h /tmp",
			service: `ports: [{hostPort: 18399, containerPort: 8080}]`,
			fails:   `^service web: .*ports\[\]\.hostPort: 18399/tcp is taken by intruder\.service of account root: stop that, or choose another hostPort`,
			shows:   []shown{{fields: "services.ports.hostPort", in: onDevice, run: "echo", want: ""}},
		},
		// Two Deployments in one network, and a third one outside of it.
		fieldCase{
			name:     "net-named",
			data:     `network: {name: line}`,
			services: []string{`{name: first, image: 'localhost/hello:1'}`},
			shows:    []shown{{fields: "network.name", in: "first", run: pageSoon("second"), want: helloPage}},
		},
		fieldCase{
			name:     "net-named-too",
			data:     `network: {name: line}`,
			services: []string{`{name: second, image: 'localhost/hello:1'}`},
			shows:    []shown{{fields: "network.name", in: "second", run: pageSoon("first"), want: helloPage}},
		},
		fieldCase{
			name:     "net-other",
			data:     `network: {mode: Bridge}`,
			services: []string{`{name: third, image: 'localhost/hello:1'}`},
			shows: []shown{
				{fields: "network.mode", in: "third", run: "timeout 5 wget -qO- http://second:8080/ >/dev/null 2>&1 || echo unknown", want: "unknown"},
				{
					fields: "network.mode", in: onDevice, // nor by address, which those in the same network may use
					run: forWorkload + `sh -c 'address=$(podman inspect --type container --format "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}" fields_net-default_peer)
						podman exec fields_net-default_web timeout 20 wget -qO- http://$address:8080/
						podman exec fields_net-other_third timeout 5 wget -qO- http://$address:8080/ 2>/dev/null || echo apart'`,
					want: helloPage + "\napart",
				},
			},
		},
	)
}
