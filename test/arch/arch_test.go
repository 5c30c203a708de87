package arch_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/test/arch"
)

const module = "fleet.nationtech.io/fleet/"

// listed is what `go list` says of a package.
type listed struct {
	arch.Package
	Name    string
	Doc     string
	GoFiles []string
	// DepOnly is true for packages outside this module.
	DepOnly bool
}

// list returns every package of the module with its import closure, as the
// product is built.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports,Name,Doc,GoFiles,DepOnly", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-tags=remote,exclude_graphdriver_btrfs,containers_image_openpgp")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing packages: %v\n%s", err, stderr.String())
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestImportDirections(t *testing.T) {
	t.Parallel()
	graph := arch.Graph{}
	for _, p := range list(t) {
		graph[p.ImportPath] = p.Package
	}
	// Controls: a listing that missed the product would pass everything.
	for _, present := range []string{module + "pkg/wire", module + "pkg/score", "encoding/json"} {
		if _, ok := graph[present]; !ok {
			t.Fatalf("%s is not in the import graph", present)
		}
	}
	for _, violation := range arch.Violations(graph) {
		t.Error(violation)
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		if p.DepOnly || len(p.GoFiles) == 0 {
			continue
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package doc must begin with %q, it is %q", p.ImportPath, want, p.Doc)
		}
	}
}

// Each rule is fed an edge that it must find, directly and through another
// package, and one that it must let pass.
func TestViolations(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		edges []string // "a b": a imports b; our own packages begin with pkg/ or cmd/
		want  string   // empty: none
	}{
		{"wire and the standard library", []string{"pkg/wire encoding/json"}, ""},
		{"wire and a library", []string{"pkg/wire github.com/x/y"}, "pkg/wire → github.com/x/y"},
		{"score and wire", []string{"pkg/score pkg/wire"}, ""},
		{"score and a shared package", []string{"pkg/score pkg/logging", "pkg/logging fmt"}, "pkg/score → pkg/logging"},
		{"apis and apimachinery", []string{"pkg/apis/fleet/v1alpha1 k8s.io/apimachinery/pkg/runtime", "k8s.io/apimachinery/pkg/runtime k8s.io/klog/v2"}, ""},
		{"apis and client-go", []string{"pkg/apis/fleet/v1alpha1 k8s.io/client-go/rest"}, "pkg/apis/fleet/v1alpha1 → k8s.io/client-go/rest"},
		{"apis and wire", []string{"pkg/apis/fleet/v1alpha1 pkg/wire"}, "pkg/apis/fleet/v1alpha1 → pkg/wire"},
		{"agent and wire", []string{"pkg/agent/link pkg/wire", "pkg/agent/link github.com/nats-io/nats.go"}, ""},
		{"agent and Kubernetes", []string{"pkg/agent k8s.io/api/core/v1"}, "pkg/agent → k8s.io/api/core/v1"},
		{"agent and NATS server", []string{"pkg/agent/link x.org/y", "x.org/y github.com/nats-io/nats-server/v2/server"}, "pkg/agent/link → x.org/y → github.com/nats-io/nats-server/v2/server"},
		{"agent and kine", []string{"cmd/fleet-agent github.com/k3s-io/kine/pkg/server"}, "cmd/fleet-agent → github.com/k3s-io/kine/pkg/server"},
		{"agent and sigs.k8s.io/yaml", []string{"pkg/agent/config sigs.k8s.io/yaml"}, ""},
		{"settings and its libraries", []string{"pkg/settings go.yaml.in/yaml/v3", "pkg/settings github.com/spf13/pflag"}, ""},
		{"settings and another YAML", []string{"pkg/settings sigs.k8s.io/yaml"}, "pkg/settings imports YAML and flags only, for both sides: pkg/settings → sigs.k8s.io/yaml"},
		{"settings and a program", []string{"pkg/settings pkg/wire"}, "pkg/settings → pkg/wire"},
		{"atomicfile and who writes", []string{"pkg/atomicfile pkg/logging"}, "pkg/atomicfile → pkg/logging"},
		{"agent and broker", []string{"pkg/agent pkg/broker"}, "pkg/agent → pkg/broker"},
		{"agent and the bindings through podman", []string{"cmd/fleet-agent pkg/podman", "pkg/podman github.com/containers/podman/v5/pkg/bindings"}, ""},
		{"agent and the bindings", []string{"pkg/agent github.com/containers/podman/v5/pkg/bindings"}, "only pkg/podman imports the podman bindings: pkg/agent → github.com/containers/podman/v5/pkg/bindings"},
		{"the reconciler and containers", []string{"pkg/agent pkg/agent/workload", "pkg/agent pkg/agent/container"}, "pkg/agent → pkg/agent/container"},
		{"the reconciler and containers through its store", []string{"pkg/agent pkg/agent/store", "pkg/agent/store pkg/agent/container/plan"}, "pkg/agent → pkg/agent/store → pkg/agent/container/plan"},
		{"containers and their driver", []string{"pkg/agent/container/driver pkg/agent/container/plan", "pkg/agent/container/driver pkg/agent/workload", "cmd/fleet-agent pkg/agent/container/driver"}, ""},
		{"the seam of drivers and the contract", []string{"pkg/agent/workload pkg/wire", "pkg/agent/workload pkg/score"}, ""},
		{"the seam of drivers and the agent", []string{"pkg/agent/workload pkg/agent/store"}, "pkg/agent/workload → pkg/agent/store"},
		{"tests of drivers", []string{"pkg/agent/workload/workloadtest pkg/atomicfile"}, ""},
		{"the census and what it counts", []string{"pkg/controllers/census pkg/controllers/assigner", "pkg/controllers/census k8s.io/client-go/tools/cache"}, ""},
		{"the census and a client", []string{"pkg/controllers/census pkg/client"}, "pkg/controllers/census → pkg/client"},
		{"the device's client and nats.go", []string{"pkg/agent/link pkg/deviceclient", "pkg/deviceclient github.com/nats-io/nats.go", "pkg/deviceclient pkg/wire"}, ""},
		{"the device's client and the agent", []string{"pkg/deviceclient pkg/agent/store"}, "pkg/deviceclient → pkg/agent/store"},
		{"server and the device's client", []string{"pkg/deviceapi pkg/deviceclient"}, "pkg/deviceapi → pkg/deviceclient"},
		{"simulator and server side", []string{"cmd/fleet-sim pkg/client", "pkg/client fmt"}, "cmd/fleet-sim → pkg/client"},
		{"server and Kubernetes", []string{"pkg/controllers/assigner k8s.io/client-go/rest", "pkg/controllers/assigner pkg/apis/fleet/v1alpha1"}, ""},
		{"the planner and its neighbours", []string{"pkg/rollout pkg/assignment", "pkg/rollout pkg/score", "pkg/score github.com/robfig/cron/v3"}, ""},
		{"the planner and Kubernetes", []string{"pkg/rollout k8s.io/apimachinery/pkg/labels"}, "the cores import the standard library and the contract only: pkg/rollout → k8s.io/apimachinery/pkg/labels"},
		{"the form of a rollout and apimachinery", []string{"pkg/rollout/rolloutspec k8s.io/apimachinery/pkg/util/validation/field", "pkg/rollout/rolloutspec pkg/rollout"}, ""},
		{"the form of a rollout and a client", []string{"pkg/rollout/rolloutspec k8s.io/client-go/rest"}, "pkg/rollout/rolloutspec → k8s.io/client-go/rest"},
		{"server and agent", []string{"cmd/fleet-server pkg/embedserver", "pkg/embedserver pkg/agent/store"}, "cmd/fleet-server → pkg/embedserver → pkg/agent/store"},
		{"server and podman", []string{"pkg/deviceapi pkg/podman"}, "pkg/deviceapi → pkg/podman"},
		{"server and ebpf", []string{"pkg/broker github.com/cilium/ebpf/link"}, "pkg/broker → github.com/cilium/ebpf/link"},
		{"shared and a library", []string{"pkg/logging github.com/go-logr/logr"}, ""},
		{"shared and Kubernetes", []string{"pkg/logging k8s.io/klog/v2"}, "pkg/logging → k8s.io/klog/v2"},
		{"shared and agent", []string{"pkg/new pkg/agent/store"}, "pkg/new → pkg/agent/store"},
		{"shared and server", []string{"pkg/new pkg/broker"}, "pkg/new → pkg/broker"},
		{"a name that only begins alike", []string{"pkg/agentless k8s.io/api/core/v1"}, "what both sides share imports neither side: pkg/agentless"},
		{"tests may do anything", []string{"test/e2e pkg/agent", "test/e2e k8s.io/client-go/rest"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			found := strings.Join(arch.Violations(graphOf(tt.edges)), "\n")
			if tt.want == "" && found != "" {
				t.Errorf("found %s", found)
			}
			if !strings.Contains(found, tt.want) {
				t.Errorf("found %q, want %q", found, tt.want)
			}
		})
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// graphOf builds a graph from edges; a path without a dot in its first element
// that is not ours is of the standard library.
func graphOf(edges []string) arch.Graph {
	graph := arch.Graph{}
	node := func(path string) string {
		first, _, _ := strings.Cut(path, "/")
		ours := first == "pkg" || first == "cmd" || first == "test"
		standard := !ours && !strings.Contains(first, ".")
		if ours {
			path = module + path
		}
		if _, ok := graph[path]; !ok {
			graph[path] = arch.Package{ImportPath: path, Standard: standard}
		}
		return path
	}
	for _, edge := range edges {
		from, to, _ := strings.Cut(edge, " ")
		from, to = node(from), node(to)
		p := graph[from]
		p.Imports = append(p.Imports, to)
		graph[from] = p
	}
	return graph
}
