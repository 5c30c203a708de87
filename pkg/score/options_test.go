package score_test

import (
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/score"
)

// Quantities are written as in Kubernetes, and rounded up as there.
func TestQuantities(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"512M": 512e6, "0.5Gi": 512 << 20, "1e9": 1e9, "1E9": 1e9, "4194304": 4 << 20, "64Mi": 64 << 20, "8192Ki": 8 << 20, "1.5G": 15e8, ".5Gi": 512 << 20,
		"5000000000m": 5e6, "0.1Gi": 107374183, "1Ti": 1 << 40, "7Ei": 7 << 60, "5000000k": 5e9, "10000000.": 1e7, "5E": 5e18, "1e+7": 1e7, "1234567890123456n": 0, "8Ei": 0, "1e99": 0,
		"-64Mi": 0, "64MB": 0, "64 Mi": 0, "Mi": 0, "1e": 0, "0x10000000": 0, "64mi": 0, "1_000_000_0": 0, "5K": 0, strings.Repeat("1", 33): 0, "512m": 0,
	} {
		p, err := score.ParsePodmanV0([]byte(document(`"resources":{"limits":{"memory":"` + text + `"}}`)))
		switch {
		case want == 0 && err == nil:
			t.Errorf("%q is accepted: %d", text, p.Services[0].Resources.Limits.MemoryBytes())
		case want != 0 && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != 0 && p.Services[0].Resources.Limits.MemoryBytes() != want:
			t.Errorf("%q is %d bytes, want %d", text, p.Services[0].Resources.Limits.MemoryBytes(), want)
		}
	}
	for text, want := range map[string]int64{"500m": 500, "2": 2000, "1.5": 1500, "0.0101": 11, "10m": 10, "9m": 0, "1025": 0, "": 0} {
		p, err := score.ParsePodmanV0([]byte(document(`"resources":{"limits":{"cpu":"` + text + `"}}`)))
		if bad := want == 0 && text != ""; bad != (err != nil) {
			t.Errorf("%q: %v", text, err)
		} else if err == nil && p.Services[0].Resources.Limits.CPUMillis() != want {
			t.Errorf("%q is %d thousandths, want %d", text, p.Services[0].Resources.Limits.CPUMillis(), want)
		}
	}
}

// A quantity in other units is told from one that is too small, and what is proposed is taken.
func TestQuantitiesInOtherUnits(t *testing.T) {
	t.Parallel()
	const anyBytes = "bytes, or a quantity such as 512M, 0.5Gi or 1e9"
	for text, want := range map[string]string{
		"512MB": "is no quantity: use 512M or 512Mi", "512mb": "is no quantity: use 512M or 512Mi", "1.5GB": "is no quantity: use 1.5G or 1.5Gi", ".5gb": "is no quantity: use .5G or .5Gi",
		"512MiB": "is no quantity: use 512Mi", "64 Mi": "is no quantity: use 64Mi", "64mi": "is no quantity: use 64Mi", "5000K": "is no quantity: use 5000k or 5000Ki", "8192KB": "is no quantity: use 8192k or 8192Ki",
		"8388608B": "is no quantity: use 8388608", "512g": "is no quantity: use 512G or 512Gi",
		// What would be too small or too much is not proposed.
		"1MB": "is no quantity: use " + anyBytes, "4MB": "is no quantity: use 4Mi", "9EB": "is no quantity: use 9E", "99EB": "is no quantity: use " + anyBytes, "Mi": "is no quantity: use " + anyBytes, "64M B": "is no quantity: use " + anyBytes,
		" ": "is no quantity: use " + anyBytes, strings.Repeat("1", 33): "is no quantity: use " + anyBytes, strings.Repeat("1", 31) + "MB": "is no quantity: use " + anyBytes,
		// A quantity, but another one than was meant: thousandths of a byte.
		"512m": "is not at least 4Mi: use 512M or 512Mi", "4M": "is not at least 4Mi: use 4Mi", "1M": "is not at least 4Mi: use " + anyBytes, "0": "is not at least 4Mi: use " + anyBytes,
		"8Ei": "is too much: use less than 8Ei", "1e99": "is too much: use less than 8Ei",
	} {
		_, err := score.ParsePodmanV0([]byte(document(`"resources":{"limits":{"memory":"` + text + `"}}`)))
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
			continue
		}
		_, proposed, _ := strings.Cut(want, "use ")
		for proposal := range strings.SplitSeq(proposed, " or ") {
			if strings.Contains(want, anyBytes) || strings.Contains(want, "8Ei") {
				continue
			}
			if _, err := score.ParsePodmanV0([]byte(document(`"resources":{"limits":{"memory":"` + proposal + `"}}`))); err != nil {
				t.Errorf("%q is proposed for %q, and refused: %v", proposal, text, err)
			}
		}
	}
	for text, want := range map[string]string{
		"2 cores": "is no quantity: use processors, such as 500m or 1.5", "50%": "is no quantity: use processors", "500M": "is not within 10m to 1024: use processors", "1e99": "is not within 10m to 1024",
	} {
		_, err := score.ParsePodmanV0([]byte(document(`"resources":{"limits":{"cpu":"` + text + `"}}`)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		`"workingDir":"/srv/app"`: "", `"workingDir":"/"`: "", `"workingDir":"srv"`: `workingDir: "srv" is not an absolute path`,
		`"hostname":"box-1"`: "", `"hostname":"box.example"`: `hostname: "box.example" must be`,
		`"shmSize":"256Mi"`: "", `"shmSize":"0"`: `shmSize: "0" is not at least 4Ki`,
		`"hostIPC":true,"shmSize":"1Mi"`: "shmSize: with hostIPC", `"hostPID":true,"init":true`: "init: with hostPID",
		`"oomScoreAdj":0`: "", `"oomScoreAdj":1001`: "oomScoreAdj: 1001 is not within 0 to 1000", `"oomScoreAdj":-1`: "oomScoreAdj: -1 is not",
		`"ulimits":[{"name":"nofile","soft":1024,"hard":4096},{"name":"core","hard":0},{"name":"memlock","hard":-1}]`: "",
		`"ulimits":[{"name":"files","hard":1}]`: `ulimits[0].name: "files" is unknown: use as, core`, `"ulimits":[{"name":"core","hard":1,"soft":2}]`: "ulimits[0].soft: 2 is more",
		`"ulimits":[{"name":"core","hard":1,"soft":-1}]`: "ulimits[0].soft: -1 is more", `"ulimits":[{"name":"core","hard":1},{"name":"core","hard":2}]`: `ulimits[1].name: "core" is given twice`,
		`"resources":{"limits":{"swap":"1Gi"}}`: "limits.swap: limits.memory is needed", `"resources":{"limits":{"memory":"1Gi","swap":"1Gi","pids":100}}`: "",
		`"resources":{"limits":{"pids":0}}`: "limits.pids: 0 is not", `"resources":{"ioWeight":9}`: "ioWeight: 9 is not within 10 to 1000",
		`"resources":{"limits":{"memory":"1Gi"},"requests":{"memory":"2Gi"}}`: `requests.memory: "2Gi" is more than limits.memory`,
		`"resources":{"limits":{"memory":"7Ei","swap":"7Ei"}}`:                `limits.swap: "7Ei" is too much`,
		`"devices":[{"path":"/dev/ttyUSB0"}]`:                                 "", `"devices":[{"path":"/srv/x"}]`: `devices[0].path: "/srv/x" is not below /dev`,
		`"devices":[{"path":"/dev/../etc/shadow"}]`: "devices[0].path", `"devices":[{"path":"/dev/a","mountPath":"/dev/shm"}]`: "devices[0].mountPath: /dev/shm is the container's own",
		`"devices":[{"path":"/dev/a"},{"path":"/dev/b","mountPath":"/dev/a"}]`: `devices[1].path: "/dev/a" is mounted twice`,
		`"cdiDevices":["nvidia.com/gpu=all"]`:                                  "", `"cdiDevices":["/dev/a"]`: `cdiDevices[0]: "/dev/a" is not the name of a CDI device`,
		`"hostServices":["udev","dbus"]`: "", `"hostServices":["podman"]`: `hostServices[0]: "podman" is unknown: use udev or dbus`, `"hostServices":[""]`: "hostServices[0]: is empty",
		`"hostServices":["udev"],"volumes":[{"name":"a","mountPath":"/run/udev"}]`: `hostServices[0]: "/run/udev" is mounted twice`,
		`"userNamespace":{"uid":1000}`:                                             "", `"userNamespace":{"uid":65536}`: "userNamespace.uid: 65536 is not", `"userNamespace":{"uid":1,"gid":-1}`: "userNamespace.gid: -1 is not",
		`"volumes":[{"emptyDir":{"medium":"Memory","sizeLimit":"64Mi"},"mountPath":"/a"}]`: "", `"volumes":[{"emptyDir":{},"mountPath":"/a"}]`: `volumes[0].emptyDir.medium: "" is not known here: use Memory`,
		`"volumes":[{"name":"a","mountPath":"/a","sizeLimit":"1Gi"}]`: "", `"volumes":[{"hostPath":"/a","mountPath":"/a","sizeLimit":"1Gi"}]`: "volumes[0].sizeLimit: is for a named volume",
		`"volumes":[{"name":"a","mountPath":"/a","sizeLimit":"1Gi"},{"name":"a","mountPath":"/b","sizeLimit":"2Gi"}]`: "volumes[1].sizeLimit: volume a has the size 1Gi already",
		`"log":{"maxSize":"1Mi"}`: "", `"log":{"maxSize":"1"}`: `log.maxSize: "1" is not at least 64Ki`,
		`"labels":{"app":"x","example.com/app":"y"}`: "", `"labels":{"fleet.nationtech.io/hash":"x"}`: `labels."fleet.nationtech.io/hash": podman or the agent acts upon`,
		`"labels":{"":"x"}`: `labels."": "" is not a key`, `"labels":{"PODMAN_SYSTEMD_UNIT":"x"}`: "labels.PODMAN_SYSTEMD_UNIT: podman or the agent", `"labels":{"a":"b\nc"}`: "labels.a: its value",
		`"annotations":{"example.com/a":"b"}`: "", `"annotations":{"run.oci.keep_original_groups":"1"}`: `is not a key such as example.com/note`,
		`"annotations":{"org.systemd.property/x":"1"}`: `podman or the agent acts upon`,
		`"labels":{"a":1}`: "labels.a: is a number, a string is needed",
	} {
		_, err := score.ParsePodmanV0([]byte(document(option)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "data.services[0].") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", option, err, want)
		}
	}
}

func TestSecurityContext(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		`{"runAsUser":1000,"runAsGroup":100,"supplementalGroups":[5]}`: "",
		`{"runAsGroup":100}`: "runAsGroup: runAsUser is needed", `{"runAsUser":65536}`: "runAsUser: 65536 is not", `{"supplementalGroups":[-1]}`: "supplementalGroups[0]: -1 is not",
		`{"capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]}}`: "", `{"capabilities":{"add":["ALL"]}}`: `capabilities.add[0]: "ALL" is no capability`,
		`{"capabilities":{"add":["CAP_NET_ADMIN"]}}`: `"CAP_NET_ADMIN": leave CAP_ out`, `{"capabilities":{"add":["NET_ADMINS"]}}`: "did you mean NET_ADMIN?", `{"capabilities":{"drop":["net_raw"]}}`: `leave CAP_ out, and use capital letters`,
		`{"seccompProfile":{"type":"Unconfined"}}`: "", `{"seccompProfile":{"type":"Localhost"}}`: `seccompProfile.type: "Localhost" is unknown: use RuntimeDefault or Unconfined`,
		`{"seLinuxOptions":{"type":"spc_t","level":"s0:c1,c2"}}`: "", `{"seLinuxOptions":{"type":"a b"}}`: `seLinuxOptions.type: "a b" is not part of a label`,
		`{"sysctls":[{"name":"net.ipv4.ip_forward","value":"1"}]}`: "", `{"sysctls":[{"name":"net/ipv4/conf/eth0.1/forwarding","value":"1"}]}`: "sysctls[0].name", `{"sysctls":[{"name":"kernel.panic","value":"1"}]}`: `sysctls[0].name: "kernel.panic" is one of the whole device`,
		`{"sysctls":[{"name":"net.ipv4.ip_local_port_range","value":"1024 65000"}]}`: "", `{"sysctls":[{"name":"net.ipv4.ip_forward","value":"1\n"}]}`: "sysctls[0].value",
	} {
		_, err := score.ParsePodmanV0([]byte(document(`"securityContext":` + option)))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "data.services[0].securityContext.") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", option, err, want)
		}
	}
}

// Rights of before are kept by a service that says nothing of rights.
func TestEscalates(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]bool{
		`"restart":"Always"`: true, `"securityContext":{}`: false, `"securityContext":{"allowPrivilegeEscalation":false}`: false, `"securityContext":{"allowPrivilegeEscalation":true}`: true,
	} {
		p, err := score.ParsePodmanV0([]byte(document(option)))
		if err != nil || p.Services[0].SecurityContext.Escalates() != want {
			t.Errorf("%s: %v, want %v", option, err, want)
		}
	}
}

// Each field that reaches beyond the container needs a privilege, and is named.
func TestDemands(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]struct {
		level score.Privilege
		text  string
	}{
		`"restart":"Always"`: {score.Restricted, ""},
		`"volumes":[{"hostPath":"/srv","mountPath":"/a"}]`: {score.Privileged, "data.services[0].volumes[0].hostPath needs privilege privileged"},
		`"devices":[{"path":"/dev/a"}],"hostPID":true`:     {score.Privileged, "data.services[0].devices[0], data.services[0].hostPID need privilege privileged"},
		`"cdiDevices":["a.b/c=d"]`:                         {score.Privileged, "data.services[0].cdiDevices[0] needs privilege privileged"},
		`"hostServices":["udev"]`:                          {score.Privileged, "data.services[0].hostServices[0] needs privilege privileged"},
		`"hostIPC":true`:                                   {score.Privileged, "data.services[0].hostIPC needs privilege privileged"},
		`"securityContext":{"capabilities":{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}}`:                             {score.Restricted, ""},
		`"securityContext":{"capabilities":{"add":["CHOWN"]}}`:                                                       {score.Baseline, "data.services[0].securityContext.capabilities.add[0] needs privilege baseline"},
		`"securityContext":{"capabilities":{"add":["CHOWN","NET_RAW"]}}`:                                             {score.Privileged, "data.services[0].securityContext.capabilities.add[0], data.services[0].securityContext.capabilities.add[1] need privilege privileged"},
		`"securityContext":{"allowPrivilegeEscalation":true}`:                                                        {score.Baseline, "data.services[0].securityContext.allowPrivilegeEscalation needs privilege baseline"},
		`"securityContext":{"seccompProfile":{"type":"Unconfined"}}`:                                                 {score.Privileged, "data.services[0].securityContext.seccompProfile needs privilege privileged"},
		`"securityContext":{"seLinuxOptions":{"type":"container_t"}}`:                                                {score.Restricted, ""},
		`"securityContext":{"seLinuxOptions":{"type":"spc_t"}}`:                                                      {score.Privileged, "data.services[0].securityContext.seLinuxOptions needs privilege privileged"},
		`"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_syncookies","value":"1"}]}`:                             {score.Restricted, ""},
		`"securityContext":{"sysctls":[{"name":"net.ipv4.ip_forward","value":"1"}]}`:                                 {score.Privileged, "data.services[0].securityContext.sysctls[0] needs privilege privileged"},
		`"userNamespace":{"uid":1000},"oomScoreAdj":500,"labels":{"a":"b"},"init":true`:                              {score.Restricted, ""},
		`"devices":[` + strings.TrimSuffix(strings.Repeat(`{"path":"/dev/a","mountPath":"/dev/NN"},`, 7), ",") + `]`: {score.Privileged, "devices[4] and 2 more fields need privilege privileged"},
	} {
		n := 0
		for strings.Contains(option, "NN") {
			n++
			option = strings.Replace(option, "NN", string(rune('a'+n)), 1)
		}
		needs, err := score.Validate(score.TypePodmanV0, []byte(document(option)))
		if got := needs.Demands.Beyond(score.Restricted); err != nil || needs.Privilege != want.level || got != want.text && (want.text == "" || !strings.HasSuffix(got, want.text)) {
			t.Errorf("%s: %v, %s, %v", option, needs.Privilege, got, err)
		}
	}
}
