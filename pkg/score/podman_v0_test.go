package score_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/score"
)

// document returns the data of a score with one service, to which fields are
// added as JSON: `"restart":"Never"`.
func document(fields ...string) string {
	all := append([]string{`"name":"web"`, `"image":"docker.io/library/nginx:1.29"`}, fields...)
	return `{"services":[{` + strings.Join(all, ",") + `}]}`
}

func TestParsePodmanV0(t *testing.T) {
	t.Parallel()
	data := `{"services":[
		{"name":"web","image":"docker.io/library/nginx:1.29","command":["/bin/sh","-c"],"args":["x"],
		 "env":[{"name":"A","value":"1"},{"name":"B"}],
		 "ports":[{"hostPort":8080,"containerPort":80},{"hostPort":8080,"containerPort":53,"protocol":"UDP","hostIP":"127.0.0.1"}],
		 "volumes":[{"name":"data","mountPath":"/data"},{"hostPath":"/srv","mountPath":"/srv","readOnly":true}],
		 "restart":"OnFailure","resources":{"limits":{"memory":"64Mi"}}},
		{"name":"db","image":"localhost/db"}]}`
	want := &score.PodmanV0{Services: []score.Service{
		{
			Name: "web", Image: "docker.io/library/nginx:1.29", Command: []string{"/bin/sh", "-c"}, Args: []string{"x"},
			Env:     []score.EnvVar{{Name: "A", Value: "1"}, {Name: "B"}},
			Ports:   []score.Port{{HostPort: 8080, ContainerPort: 80}, {HostPort: 8080, ContainerPort: 53, Protocol: "UDP", HostIP: "127.0.0.1"}},
			Volumes: []score.Volume{{Name: "data", MountPath: "/data"}, {HostPath: "/srv", MountPath: "/srv", ReadOnly: true}},
			Restart: score.RestartOnFailure, Resources: score.Resources{Limits: score.Limits{Memory: "64Mi"}},
		},
		{Name: "db", Image: "localhost/db"},
	}}
	got, err := score.ParsePodmanV0([]byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What is refused, with the whole message: it is what a person reads in the
// condition Accepted.
func TestParsePodmanV0Errors(t *testing.T) {
	t.Parallel()
	long, nul := strings.Repeat("a", 64), `\u0000`
	list := func(n int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	const label = "must be at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"
	const memory = "use bytes, or a quantity such as 512M, 0.5Gi or 1e9"
	const shortest = "is not an absolute path in its shortest form"
	tests := []struct{ name, data, want string }{
		// services
		{"no services", `{}`, "data.services: at least one service is needed"},
		{"null document", `null`, "data.services: at least one service is needed"},
		{"null services", `{"services":null}`, "data.services: at least one service is needed"},
		{"empty services", `{"services":[]}`, "data.services: at least one service is needed"},
		{"too many services", `{"services":` + list(65, `{}`) + `}`, "data.services: 65 services, at most 64 are allowed"},
		{"null service", `{"services":[null]}`, `data.services[0].name: "" ` + label + "; data.services[0].image: an image is needed"},
		{"same name", `{"services":[{"name":"a","image":"localhost/a"},{"name":"a","image":"localhost/a"}]}`, `data.services[1].name: "a" is used twice`},

		// name and image
		{"no name", `{"services":[{"image":"localhost/a"}]}`, `data.services[0].name: "" ` + label},
		{"name with underscore", `{"services":[{"name":"a_b","image":"localhost/a"}]}`, `data.services[0].name: "a_b" ` + label},
		{"name in upper case", `{"services":[{"name":"A","image":"localhost/a"}]}`, `data.services[0].name: "A" ` + label},
		{"long name", `{"services":[{"name":"` + long + `","image":"localhost/a"}]}`, `data.services[0].name: "` + long + `" ` + label},
		{"name with a line break", `{"services":[{"name":"a\nb","image":"localhost/a"}]}`, `data.services[0].name: "a\nb" ` + label},
		{"no image", `{"services":[{"name":"a"}]}`, "data.services[0].image: an image is needed"},
		{"short image", `{"services":[{"name":"a","image":"nginx"}]}`, `data.services[0].image: "nginx" is not a fully qualified image reference such as docker.io/library/nginx:1.29`},
		{"second service", `{"services":[{"name":"a","image":"localhost/a"},{"name":"b"}]}`, "data.services[1].image: an image is needed"},

		// resources
		{"long to be ready", `{"services":[{"name":"a","image":"localhost/a"}],"minReadySeconds":3601}`, "data.minReadySeconds: 3601 is not within 0 to 3600"},
		{"negative to be ready", `{"services":[{"name":"a","image":"localhost/a"}],"minReadySeconds":-1}`, "data.minReadySeconds: -1 is not within 0 to 3600"},
		{"grace", document(`"terminationGracePeriodSeconds":3601`), "data.services[0].terminationGracePeriodSeconds: 3601 is not within 0 to 3600"},
		{"negative grace", document(`"terminationGracePeriodSeconds":-1`), "data.services[0].terminationGracePeriodSeconds: -1 is not within 0 to 3600"},
		{"fraction of a grace", document(`"terminationGracePeriodSeconds":1.5`), "data.services[0].terminationGracePeriodSeconds: is a number, a whole number is needed"},
		{"no signal", document(`"stopSignal":"TERM"`), `data.services[0].stopSignal: "TERM" is not the name of a signal such as SIGTERM or SIGRTMIN+3`},
		{"signal out of range", document(`"stopSignal":"SIGRTMIN+31"`), `data.services[0].stopSignal: "SIGRTMIN+31" is not the name of a signal such as SIGTERM or SIGRTMIN+3`},
		{"signal without a number", document(`"stopSignal":"SIGRTMIN+"`), `data.services[0].stopSignal: "SIGRTMIN+" is not the name of a signal such as SIGTERM or SIGRTMIN+3`},
		{"unknown limit", document(`"resources":{"limits":{"disk":"1"}}`), "data.services[0].resources.limits.disk: unknown field; known here: memory, cpu, swap, pids"},
		{"requests", document(`"resources":{"requests":{"cpu":"1"}}`), "data.services[0].resources.requests.cpu: unknown field; known here: memory"},
		{"little memory", document(`"resources":{"limits":{"memory":"4095Ki"}}`), `data.services[0].resources.limits.memory: "4095Ki" is not at least 4Mi: ` + memory},
		{"memory in other units", document(`"resources":{"limits":{"memory":"512MB"}}`), `data.services[0].resources.limits.memory: "512MB" is no quantity: use 512M or 512Mi`},
		{"negative memory", document(`"resources":{"limits":{"memory":"-64Mi"}}`), `data.services[0].resources.limits.memory: "-64Mi" is no quantity: ` + memory},
		{"too much memory", document(`"resources":{"limits":{"memory":"8589934592Gi"}}`), `data.services[0].resources.limits.memory: "8589934592Gi" is too much: use less than 8Ei`},

		// restart, command, args
		{"restart", document(`"restart":"always"`), `data.services[0].restart: "always" is unknown: use Always, OnFailure or Never`},
		{"too many args", document(`"args":` + list(257, `"a"`)), "data.services[0].args: 257 items, at most 256 are allowed"},
		{"NUL in args", document(`"args":["a","b` + nul + `"]`), "data.services[0].args: contains a NUL byte"},
		{"too many words", document(`"command":` + list(257, `"a"`)), "data.services[0].command: 257 items, at most 256 are allowed"},
		{"NUL in command", document(`"command":["` + nul + `"]`), "data.services[0].command: contains a NUL byte"},

		// env
		{"no env name", document(`"env":[{"value":"x"}]`), `data.services[0].env[0].name: "" is not the name of an environment variable`},
		{"env name with =", document(`"env":[{"name":"A"},{"name":"A=B"}]`), `data.services[0].env[1].name: "A=B" is not the name of an environment variable`},
		{"long env name", document(`"env":[{"name":"` + strings.Repeat("A", 257) + `"}]`), `data.services[0].env[0].name: "` + strings.Repeat("A", 80) + `" is not the name of an environment variable`},
		{"NUL in env", document(`"env":[{"name":"A","value":"` + nul + `"}]`), "data.services[0].env[0].value: contains a NUL byte"},
		{"too much env", document(`"env":` + list(257, `{"name":"A"}`)), "data.services[0].env: 257 items, at most 256 are allowed"},

		// ports
		{"no host port", document(`"ports":[{"containerPort":80}]`), "data.services[0].ports[0].hostPort: 0 is not within 1 to 65535"},
		{"no container port", document(`"ports":[{"hostPort":80}]`), "data.services[0].ports[0].containerPort: 0 is not within 1 to 65535"},
		{"port too high", document(`"ports":[{"hostPort":65536,"containerPort":80}]`), "data.services[0].ports[0].hostPort: 65536 is not within 1 to 65535"},
		{"negative port", document(`"ports":[{"hostPort":80,"containerPort":-1}]`), "data.services[0].ports[0].containerPort: -1 is not within 1 to 65535"},
		{"protocol", document(`"ports":[{"hostPort":80,"containerPort":80,"protocol":"tcp"}]`), `data.services[0].ports[0].protocol: "tcp" is unknown: use TCP or UDP`},
		{"host name as IP", document(`"ports":[{"hostPort":80,"containerPort":80,"hostIP":"localhost"}]`), `data.services[0].ports[0].hostIP: "localhost" is not an IP address`},
		{"IP with a zone", document(`"ports":[{"hostPort":80,"containerPort":80,"hostIP":"fe80::1%eth0"}]`), `data.services[0].ports[0].hostIP: "fe80::1%eth0" is not an IP address`},
		{"port twice", document(`"ports":[{"hostPort":80,"containerPort":80},{"hostPort":80,"containerPort":81}]`), `data.services[0].ports[1].hostPort: 80 is already taken by service "web"`},
		{"port of another service", `{"services":[
			{"name":"a","image":"localhost/a","ports":[{"hostPort":80,"containerPort":80,"hostIP":"127.0.0.1"}]},
			{"name":"b","image":"localhost/a","ports":[{"hostPort":80,"containerPort":80}]}]}`, `data.services[1].ports[0].hostPort: 80 is already taken by service "a"`},
		{"too many ports", document(`"ports":` + list(257, `{}`)), "data.services[0].ports: 257 items, at most 256 are allowed"},

		// volumes
		{"neither name nor path", document(`"volumes":[{"mountPath":"/a"}]`), "data.services[0].volumes[0]: exactly one of name, hostPath, secretName, configMap, secret and emptyDir is needed"},
		{"name and path", document(`"volumes":[{"name":"a","hostPath":"/a","mountPath":"/a"}]`), "data.services[0].volumes[0]: exactly one of name, hostPath, secretName, configMap, secret and emptyDir is needed"},
		{"volume name", document(`"volumes":[{"name":"../a","mountPath":"/a"}]`), `data.services[0].volumes[0].name: "../a" ` + label},
		{"relative host path", document(`"volumes":[{"hostPath":"a","mountPath":"/a"}]`), `data.services[0].volumes[0].hostPath: "a" ` + shortest},
		{"root as host path", document(`"volumes":[{"hostPath":"/","mountPath":"/a"}]`), `data.services[0].volumes[0].hostPath: "/" ` + shortest},
		{"host path with ..", document(`"volumes":[{"hostPath":"/srv/../etc","mountPath":"/a"}]`), `data.services[0].volumes[0].hostPath: "/srv/../etc" ` + shortest},
		{"host path with an option", document(`"volumes":[{"hostPath":"/srv:rw","mountPath":"/a"}]`), `data.services[0].volumes[0].hostPath: "/srv:rw" ` + shortest},
		{"NUL in host path", document(`"volumes":[{"hostPath":"/a` + nul + `","mountPath":"/a"}]`), `data.services[0].volumes[0].hostPath: "/a\x00" ` + shortest},
		{"no mount path", document(`"volumes":[{"name":"a"}]`), `data.services[0].volumes[0].mountPath: "" ` + shortest},
		{"root as mount path", document(`"volumes":[{"name":"a","mountPath":"/"}]`), `data.services[0].volumes[0].mountPath: "/" ` + shortest},
		{"trailing slash", document(`"volumes":[{"name":"a","mountPath":"/a/"}]`), `data.services[0].volumes[0].mountPath: "/a/" ` + shortest},
		{"mount path with options", document(`"volumes":[{"name":"a","mountPath":"/a,exec"}]`), `data.services[0].volumes[0].mountPath: "/a,exec" ` + shortest},
		{"mounted twice", document(`"volumes":[{"name":"a","mountPath":"/a"},{"name":"b","mountPath":"/a"}]`), `data.services[0].volumes[1].mountPath: "/a" is mounted twice`},
		{"too many volumes", document(`"volumes":` + list(257, `{}`)), "data.services[0].volumes: 257 items, at most 256 are allowed"},

		// unknown fields
		{"unknown at the top", `{"services":[],"x":1}`, "data.x: unknown field; known here: services, initContainers, minReadySeconds, network, imagePullSecrets; data.services: at least one service is needed"},
		{"unknown in a service", document(`"imagee":"x"`), "data.services[0].imagee: unknown field; did you mean image?"},
		{"upper case", document(`"Restart":"Never"`), "data.services[0].Restart: unknown field; did you mean restart?"},
		{"upper case at the top", `{"Services":[]}`, "data.Services: unknown field; known here: services, initContainers, minReadySeconds, network, imagePullSecrets"},
		{"unknown in a port", document(`"ports":[{"hostPort":1,"containerPort":1},{"hostport":1}]`), "data.services[0].ports[1].hostport: unknown field; known here: hostPort, containerPort, hostIP, protocol"},
		{"unknown in env", document(`"env":[{"from":{}}]`), "data.services[0].env[0].from: unknown field; known here: name, value, valueFrom"},
		{"unknown in a volume", document(`"volumes":[{"subpath":"a"}]`), "data.services[0].volumes[0].subpath: unknown field; known here: name, hostPath, secretName, configMap, secret, mountPath, readOnly, emptyDir, sizeLimit, subPath, reload, reloadSignal; data.services[0].volumes[0]: exactly one of name, hostPath, secretName, configMap, secret and emptyDir is needed"},
		{"unknown name with a line break", `{"a\nb":1}`, `data."a\nb": unknown field; known here: services, initContainers, minReadySeconds, network, imagePullSecrets`},
		{"unknown name with a dot", `{"a.b":1}`, `data."a.b": unknown field; known here: services, initContainers, minReadySeconds, network, imagePullSecrets`},
		{"unknown empty name", `{"":1}`, `data."": unknown field; known here: services, initContainers, minReadySeconds, network, imagePullSecrets`},

		// wrong types
		{"document is a list", `[]`, "data: is a list, an object is needed"},
		{"document is a string", `"x"`, "data: is a string, an object is needed"},
		{"services is an object", `{"services":{}}`, "data.services: is an object, a list is needed"},
		{"service is a string", `{"services":["x"]}`, "data.services[0]: is a string, an object is needed"},
		{"image is a number", `{"services":[{"name":"a","image":1}]}`, "data.services[0].image: is a number, a string is needed: write it in quotation marks"},
		{"args is a string", document(`"args":"x"`), "data.services[0].args: is a string, a list is needed"},
		{"arg is a number", document(`"args":["x",80]`), "data.services[0].args[1]: is a number, a string is needed: write it in quotation marks"},
		{"env value is true", document(`"env":[{"name":"A","value":true}]`), "data.services[0].env[0].value: is true, a string is needed: write it in quotation marks"},
		{"port is a string", document(`"ports":[{"hostPort":"80","containerPort":80}]`), "data.services[0].ports[0].hostPort: is a string, a whole number is needed"},
		{"port is a fraction", document(`"ports":[{"hostPort":80.5,"containerPort":80}]`), "data.services[0].ports[0].hostPort: is a number, a whole number is needed"},
		{"port has an exponent", document(`"ports":[{"hostPort":8e1,"containerPort":80}]`), "data.services[0].ports[0].hostPort: is a number, a whole number is needed"},
		{"port overflows", document(`"ports":[{"hostPort":12345678901234567890,"containerPort":80}]`), "data.services[0].ports[0].hostPort: is a number, a whole number is needed"},
		{"readOnly is a string", document(`"volumes":[{"name":"a","mountPath":"/a","readOnly":"yes"}]`), "data.services[0].volumes[0].readOnly: is a string, true or false is needed"},

		// not one document
		{"nothing", ``, "data: not one JSON document"},
		{"cut off", `{"services":[`, "data: not one JSON document"},
		{"two documents", `{} {}`, "data: not one JSON document"},
		{"closing bracket too many", `{}}`, "data: not one JSON document"},
		{"YAML", "services: []", "data: not one JSON document"},
		{"twice", `{"services":[],"services":[]}`, "data.services: appears twice"},
		{"twice in a service", document(`"restart":"Never","restart":"Always"`), "data.services[0].restart: appears twice"},
		{"twice by an escape", `{"services":[],"service\u0073":[]}`, "data.services: appears twice"},
		{"too deep", strings.Repeat("[", 66) + strings.Repeat("]", 66), "data: nested deeper than 64 levels"},
		{"deeper than encoding/json allows", strings.Repeat(`[`, 1<<18), "data: not one JSON document"},
		{"deeper than encoding/json allows, closed", strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), "data: not one JSON document"},
		{"too long", strings.Repeat(" ", 2*score.MaxSize) + "{}", "data: 524290 bytes, at most 524288 are allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := score.ParsePodmanV0([]byte(tt.data))
			if !errors.Is(err, score.ErrInvalid) || p != nil {
				t.Fatalf("ParsePodmanV0 = %v, %v; want ErrInvalid", p, err)
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("error is\n%s\nwant\n%s", got, tt.want)
			}
			if _, ok := errors.AsType[*score.FieldError](err); !ok {
				t.Errorf("error is a %T, want one that holds a *FieldError", err)
			}
		})
	}
}

// Whatever a document holds, the message stays short and on one line.
func TestErrorsAreBounded(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat(`\n`, 100000)
	for _, data := range []string{
		`{"` + huge + `":1}`,
		`{"services":[{"name":"` + huge + `"}]}`,
		`{"services":[{"name":"a","image":"` + huge + `"}]}`,
		document(`"restart":"` + huge + `"`),
		document(`"env":[{"name":"` + huge + `"}]`),
		document(`"ports":[{"hostPort":1,"containerPort":1,"hostIP":"` + huge + `"}]`),
		document(`"ports":[{"hostPort":1,"containerPort":1,"protocol":"` + huge + `"}]`),
		document(`"volumes":[{"hostPath":"` + huge + `","mountPath":"/a"}]`),
		document(`"ports":[{"hostPort":` + strings.Repeat("1", 100000) + `}]`),
		strings.Repeat(`{"`+strings.Repeat("n", 4000)+`":`, 60) + `{"a":1,"a":1}` + strings.Repeat("}", 60),
	} {
		_, err := score.ParsePodmanV0([]byte(data))
		if err == nil || len(err.Error()) > 8<<10 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40s…: error is not one short line: %.200v", data, err)
		}
	}
}

// A value may be a secret; a message about its type does not repeat it.
func TestTypeErrorsDoNotRepeatTheValue(t *testing.T) {
	t.Parallel()
	for _, data := range []string{document(`"args":"hunter2"`), document(`"env":["hunter2"]`), document(`"env":[{"name":"A","value":["hunter2"]}]`)} {
		if _, err := score.ParsePodmanV0([]byte(data)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", data, err)
		}
	}
}

func TestLimitsAreInclusive(t *testing.T) {
	t.Parallel()
	var services []string
	for i := range 64 {
		services = append(services, fmt.Sprintf(`{"name":"a%d","image":"localhost/a"}`, i))
	}
	for name, data := range map[string]string{
		"services":      `{"services":[` + strings.Join(services, ",") + `]}`,
		"name":          `{"services":[{"name":"` + strings.Repeat("a", 63) + `","image":"localhost/a"}]}`,
		"items":         document(`"args":[` + strings.TrimSuffix(strings.Repeat(`"",`, 256), ",") + `]`),
		"ports":         document(`"ports":[{"hostPort":1,"containerPort":65535},{"hostPort":65535,"containerPort":1}]`),
		"null lists":    document(`"args":null`, `"ports":null`, `"restart":null`),
		"IPv6 and IPv4": document(`"ports":[{"hostPort":80,"containerPort":80,"hostIP":"::1"},{"hostPort":80,"containerPort":80,"hostIP":"127.0.0.1"}]`),
		"two protocols": document(`"ports":[{"hostPort":53,"containerPort":53,"protocol":"UDP"},{"hostPort":53,"containerPort":53,"protocol":"TCP"}]`),
	} {
		if _, err := score.ParsePodmanV0([]byte(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPortConflicts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		a, b score.Port
		want bool
	}{
		{"same", score.Port{HostPort: 80}, score.Port{HostPort: 80}, true},
		{"other port", score.Port{HostPort: 80}, score.Port{HostPort: 81}, false},
		{"other protocol", score.Port{HostPort: 80}, score.Port{HostPort: 80, Protocol: "UDP"}, false},
		{"default protocol", score.Port{HostPort: 80}, score.Port{HostPort: 80, Protocol: "TCP"}, true},
		{"all and one", score.Port{HostPort: 80}, score.Port{HostPort: 80, HostIP: "192.0.2.1"}, true},
		{"two addresses", score.Port{HostPort: 80, HostIP: "192.0.2.1"}, score.Port{HostPort: 80, HostIP: "192.0.2.2"}, false},
		{"same address in two spellings", score.Port{HostPort: 80, HostIP: "::1"}, score.Port{HostPort: 80, HostIP: "0:0:0:0:0:0:0:1"}, true},
		{"IPv4 in IPv6", score.Port{HostPort: 80, HostIP: "::ffff:192.0.2.1"}, score.Port{HostPort: 80, HostIP: "192.0.2.1"}, true},
		{"all of IPv4 and one", score.Port{HostPort: 80, HostIP: "0.0.0.0"}, score.Port{HostPort: 80, HostIP: "192.0.2.1"}, true},
		{"all of IPv4 and one of IPv6", score.Port{HostPort: 80, HostIP: "0.0.0.0"}, score.Port{HostPort: 80, HostIP: "::1"}, false},
		{"all of IPv6 and one of IPv4", score.Port{HostPort: 80, HostIP: "::"}, score.Port{HostPort: 80, HostIP: "192.0.2.1"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got, back := tt.a.Conflicts(tt.b), tt.b.Conflicts(tt.a); got != tt.want || back != tt.want {
				t.Errorf("Conflicts = %v and %v, want %v", got, back, tt.want)
			}
		})
	}
}

func TestImageReferences(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("0", 64)
	good := []string{
		"docker.io/library/nginx", "docker.io/library/nginx:1.29", "docker.io/library/nginx" + digest, "docker.io/library/nginx:1.29" + digest,
		"registry.example.com/app", "registry.example.com:5000/team/app:v1.2.3-rc.1", "Registry.Example.COM/app",
		"localhost/hello:1", "localhost:5000/hello", "registry:5000/app", "192.0.2.1/app", "192.0.2.1:5000/app",
		"[::1]/app", "[2001:db8::1]:5000/app", "quay.io/a/b/c/d", "quay.io/a_b/c__d/e-f/g--h/i.j", "quay.io/0", "xn--bcher-kva.example/app",
		"quay.io/app:" + strings.Repeat("a", 128), "quay.io/app:_x", "quay.io/app:latest",
	}
	bad := []string{
		"nginx", "nginx:1.29", "library/nginx", "docker.io", "docker.io/", "registry/app", "/docker.io/app",
		"docker.io/library/", "docker.io//nginx", "docker.io/Library/nginx", "docker.io/-nginx", "docker.io/nginx-", "docker.io/a..b", "docker.io/a___b", "docker.io/../etc",
		"docker.io/nginx:", "docker.io/nginx:-x", "docker.io/nginx:a b", "quay.io/app:" + strings.Repeat("a", 129),
		"docker.io/nginx@sha256:" + strings.Repeat("0", 63), "docker.io/nginx@sha256:" + strings.Repeat("A", 64), "docker.io/nginx@sha512:" + strings.Repeat("0", 128), "docker.io/nginx@", digest,
		"registry:5000:5000/app", "localhost:5000:5000/app", "registry:/app", "registry:123456/app", "[::1]:5000:1/app", "::1/app",
		"-a.example/app", "a-.example/app", "a..example/app", ".example/app", "a./app", "-:1/app",
		"https://docker.io/nginx", "docker://docker.io/nginx", "containers-storage:localhost/a", "oci:/etc/passwd", "dir:/etc",
		" docker.io/nginx", "docker.io/nginx\n", "docker.io/nginx\x00", "docker.io/nginx --privileged", "docker.io/nginx;id", "docker.io/ñ", "$(id).io/a",
		"docker.io/" + strings.Repeat("a", 600),
	}
	accepted := func(image string) bool {
		quoted, err := json.Marshal(image)
		if err != nil {
			t.Fatal(err)
		}
		_, err = score.ParsePodmanV0([]byte(`{"services":[{"name":"a","image":` + string(quoted) + `}]}`))
		return err == nil
	}
	for _, image := range good {
		if !accepted(image) {
			t.Errorf("%q is refused", image)
		}
	}
	for _, image := range bad {
		if accepted(image) {
			t.Errorf("%.90q is accepted", image)
		}
	}
}

func TestMemoryBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"": 0, "4194304": 4 << 20, "8192Ki": 8 << 20, "64Mi": 64 << 20, "8589934591Gi": 8589934591 << 30} {
		p, err := score.ParsePodmanV0([]byte(document(`"resources":{"limits":{"memory":"` + text + `"}}`)))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Services[0].Resources.Limits.MemoryBytes(); got != want {
			t.Errorf("%q is %d bytes, want %d", text, got, want)
		}
	}
}

func TestPrivilegeOfPodmanV0(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, data string
		want       score.Privilege
	}{
		{"plain", document(), score.Restricted},
		{"named volume", document(`"volumes":[{"name":"a","mountPath":"/a"}]`), score.Restricted},
		{"ports", document(`"ports":[{"hostPort":80,"containerPort":80}]`), score.Restricted},
		{"host path", document(`"volumes":[{"hostPath":"/srv","mountPath":"/a"}]`), score.Privileged},
		{"read-only host path", document(`"volumes":[{"name":"a","mountPath":"/a"},{"hostPath":"/srv","mountPath":"/b","readOnly":true}]`), score.Privileged},
		{"host path in the last service", `{"services":[{"name":"a","image":"localhost/a"},{"name":"b","image":"localhost/b","volumes":[{"hostPath":"/srv","mountPath":"/a"}]}]}`, score.Privileged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := score.Validate(score.TypePodmanV0, []byte(tt.data))
			if err != nil || got.Privilege != tt.want {
				t.Errorf("Validate = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// The hash of a service decides whether its container is replaced. It changes
// with each field, those of later releases included, but not with what containers know
// nothing of.
func TestServiceHashChangesWithEveryField(t *testing.T) {
	t.Parallel()
	full := func() *score.Service {
		s := &score.Service{}
		fill(reflect.ValueOf(s).Elem())
		return s
	}
	want := full().Hash()
	if got := full().Hash(); got != want {
		t.Fatalf("equal services have the hashes %s and %s", got, want)
	}
	seen := map[string]string{want: "the original"}
	count := 0
	for n := 0; ; n++ {
		s := full()
		left := n
		path := change(reflect.ValueOf(s).Elem(), "", &left)
		if path == "" {
			break
		}
		count++
		if strings.Contains(path, "Probe") || path == ".PullPolicy" || isAboutWhen(path) {
			if s.Hash() != want {
				t.Errorf("changing %s changes the hash", path)
			}
			continue
		}
		if other, ok := seen[s.Hash()]; ok {
			t.Errorf("changing %s gives the hash of %s", path, other)
		}
		seen[s.Hash()] = path
	}
	if count < 16 {
		t.Errorf("only %d fields were changed", count)
	}
}

// isAboutWhen reports whether a field says when a service starts or has to end.
func isAboutWhen(path string) bool {
	return slices.ContainsFunc([]string{".DependsOn", ".Schedule", ".TimeoutSeconds"}, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// fill sets every field to something.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"a": "a"}))
	case reflect.String:
		v.SetString("a")
	case reflect.Int:
		v.SetInt(1)
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic("a field of a new kind: " + v.Kind().String())
	}
}

// change sets the n-th leaf of v back to its zero value and returns its path;
// empty when there are fewer.
func change(v reflect.Value, path string, n *int) string {
	switch v.Kind() {
	case reflect.Struct:
		for field, value := range v.Fields() {
			if changed := change(value, path+"."+field.Name, n); changed != "" {
				return changed
			}
		}
		return ""
	case reflect.Slice:
		if changed := change(v.Index(0), path+"[0]", n); changed != "" {
			return changed
		}
	case reflect.Pointer:
		if changed := change(v.Elem(), path, n); changed != "" {
			return changed
		}
	}
	if *n--; *n >= 0 {
		return ""
	}
	v.SetZero()
	return path
}

// What is left out and what is empty have one hash: a container is not
// replaced for a difference in spelling.
func TestServiceHashIgnoresSpelling(t *testing.T) {
	t.Parallel()
	hash := func(data string) string {
		p, err := score.ParsePodmanV0([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		return p.Services[0].Hash()
	}
	want := hash(document())
	for _, data := range []string{
		document(`"args":[]`, `"env":null`, `"volumes":[]`, `"restart":""`, `"resources":{"limits":{"memory":""}}`),
		`{"services":[{"image":"docker.io/library/nginx:1.29",` + "\n\t" + `"name":"web"}]}`,
		`{"services":[{"name":"\u0077eb","image":"docker.io\/library\/nginx:1.29"},{"name":"b","image":"localhost/b"}]}`,
	} {
		if got := hash(data); got != want {
			t.Errorf("%s has another hash", data)
		}
	}
}

func TestHowAServiceEnds(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]struct {
		grace  time.Duration
		signal syscall.Signal
	}{
		document(): {30 * time.Second, 0},
		document(`"terminationGracePeriodSeconds":0,"stopSignal":"SIGINT"`):        {0, syscall.SIGINT},
		document(`"terminationGracePeriodSeconds":3600,"stopSignal":"SIGRTMIN+3"`): {time.Hour, 37},
	} {
		p, err := score.ParsePodmanV0([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if s := p.Services[0]; s.Grace() != want.grace || s.Signal() != want.signal {
			t.Errorf("%s: %v and %v", data, s.Grace(), s.Signal())
		}
	}
}

// The label on every container in the field holds this hash: a release that
// changes it replaces them all.
func TestServiceHashGolden(t *testing.T) {
	t.Parallel()
	// With all that services had when the first containers were made. Later fields come
	// between these, and must be left out when they are not set.
	const full = `{"name":"a","image":"a","command":["a"],"args":["a"],"env":[{"name":"a","value":"a","valueFrom":{"secretKeyRef":{"name":"a","key":"a"}}}],` +
		`"ports":[{"hostPort":1,"containerPort":1,"hostIP":"a","protocol":"a"}],` +
		`"volumes":[{"name":"a","hostPath":"a","secretName":"a","mountPath":"a","readOnly":true}],"restart":"a","resources":{"limits":{"memory":"a"}},"terminationGracePeriodSeconds":1,"stopSignal":"a"}`
	// With options that came later.
	const options = `{"name":"a","image":"a","command":["a"],"args":["a"],"env":[{"name":"a","value":"a","valueFrom":{"secretKeyRef":{"name":"a","key":"a"}}}],` +
		`"ports":[{"hostPort":1,"containerPort":1,"hostIP":"a","protocol":"a"}],` +
		`"volumes":[{"name":"a","hostPath":"a","secretName":"a","mountPath":"a","readOnly":true,"emptyDir":{"medium":"a","sizeLimit":"a"},"sizeLimit":"a"}],"restart":"a",` +
		`"resources":{"limits":{"memory":"a","cpu":"a","swap":"a","pids":1},"requests":{"memory":"a"},"ioWeight":1},"terminationGracePeriodSeconds":1,"stopSignal":"a",` +
		`"workingDir":"a","hostname":"a","shmSize":"a","init":true,"securityContext":{"runAsUser":1,"runAsGroup":1,"supplementalGroups":[1],"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":true,` +
		`"capabilities":{"add":["a"],"drop":["a"]},"seccompProfile":{"type":"a"},"seLinuxOptions":{"user":"a","role":"a","type":"a","level":"a"},"sysctls":[{"name":"a","value":"a"}]},` +
		`"userNamespace":{"uid":1,"gid":1},"ulimits":[{"name":"a","soft":1,"hard":1}],"oomScoreAdj":1,"devices":[{"path":"a","mountPath":"a"}],"cdiDevices":["a"],"hostServices":["a"],` +
		`"hostPID":true,"hostIPC":true,"log":{"maxSize":"a"},"labels":{"a":"a"},"annotations":{"a":"a"}}`
	got, want := map[string]string{}, map[string]string{}
	for _, body := range []string{`{"name":"web","image":"localhost/web:1"}`, full, options} {
		var s score.Service
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		got[body], want[body] = s.Hash(), score.Hash([]byte(body))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsOfPodmanV0(t *testing.T) {
	t.Parallel()
	env := func(name, key string) string {
		return `"env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"` + name + `","key":"` + key + `"}}}]`
	}
	for _, tt := range []struct {
		name, data string
		want       []string
		err        string
	}{
		{"none", document(), nil, ""},
		{"variable", document(env("db", "password")), []string{"db"}, ""},
		{"files", document(`"volumes":[{"secretName":"tls.example","mountPath":"/tls"}]`), []string{"tls.example"}, ""},
		{"both, once", document(env("db", "password"), `"volumes":[{"secretName":"api","mountPath":"/a"},{"secretName":"db","mountPath":"/b"}]`), []string{"api", "db"}, ""},
		{"value beside valueFrom", document(`"env":[{"name":"A","value":"x","valueFrom":{"secretKeyRef":{"name":"db","key":"k"}}}]`), nil, "data.services[0].env[0]: value and valueFrom exclude each other"},
		{"empty source", document(`"env":[{"name":"A","valueFrom":{}}]`), nil, "valueFrom.secretKeyRef.name"},
		{"bad name", document(env("../db", "k")), nil, "valueFrom.secretKeyRef.name"},
		{"bad key", document(env("db", "../k")), nil, "valueFrom.secretKeyRef.key"},
		{"key that is a directory", document(env("db", "..")), nil, "valueFrom.secretKeyRef.key"},
		{"unknown field", document(`"env":[{"name":"A","valueFrom":{"fieldRef":{}}}]`), nil, "data.services[0].env[0].valueFrom.fieldRef: unknown field"},
		{"two sources", document(`"volumes":[{"secretName":"a","name":"b","mountPath":"/a"}]`), nil, "exactly one of name, hostPath, secretName, configMap, secret and emptyDir"},
		{"bad file source", document(`"volumes":[{"secretName":"A","mountPath":"/a"}]`), nil, "volumes[0].secretName"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := score.Validate(score.TypePodmanV0, []byte(tt.data))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error is %v, want one that says %s", err, tt.err)
				}
				return
			}
			if err != nil || !slices.Equal(got.Secrets, tt.want) {
				t.Errorf("Validate = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

// All mistakes of a score are named at once, in the order of its fields, each once: what
// follows from another is left out.
func TestAllMistakes(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`{"services":[{"name":"A","image":"nginx","restart":"Maybe"},{"name":"b","image":"localhost/b","ports":[{"hostPort":80,"containerPort":0}]}]}`: `data.services[0].name: "A" must be at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit; ` +
			`data.services[0].image: "nginx" is not a fully qualified image reference such as docker.io/library/nginx:1.29; ` +
			`data.services[0].restart: "Maybe" is unknown: use Always, OnFailure or Never; ` +
			`data.services[1].ports[0].containerPort: 0 is not within 1 to 65535`,
		`{"services":[{"name":"a","image":7,"restart":"Maybe"}]}`: `data.services[0].image: is a number, a string is needed: write it in quotation marks; ` +
			`data.services[0].restart: "Maybe" is unknown: use Always, OnFailure or Never`,
		`{"services":[{"name":"a","imgae":"localhost/a"}],"minReadySeconds":-1}`: `data.services[0].imgae: unknown field; did you mean image?; data.minReadySeconds: -1 is not within 0 to 3600`,
		`{"services":[` + strings.Repeat(`{"name":"a","image":"localhost/a"},`, 12) + `null]}`: strings.Join(slices.Collect(func(yield func(string) bool) {
			for i := 1; i <= 10 && yield(fmt.Sprintf(`data.services[%d].name: "a" is used twice`, i)); i++ {
			}
		}), "; ") + "; and 3 more",
	} {
		if _, err := score.ParsePodmanV0([]byte(data)); err == nil || err.Error() != want {
			t.Errorf("%s:\n%v\nwant\n%s", data, err, want)
		}
	}
}

// A variable that is given twice is refused when a score is applied. A device goes on with one
// that was accepted before: the last value counts.
func TestVariableGivenTwice(t *testing.T) {
	t.Parallel()
	data := []byte(document(`"env":[{"name":"A","value":"1"},{"name":"B"},{"name":"A","value":"2"}]`))
	const want = `data.services[0].env[2].name: "A" is given twice`
	if _, err := score.Validate(score.TypePodmanV0, data); err == nil || err.Error() != want {
		t.Errorf("Validate: %v, want %s", err, want)
	}
	if _, err := score.ParsePodmanV0(data); err != nil {
		t.Errorf("ParsePodmanV0: %v", err)
	}
}
