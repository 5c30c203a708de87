package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	module     = "fleet.nationtech.io/fleet/"
	natsServer = "github.com/nats-io/nats-server"
	// cron is the parser of schedules, which pkg/score validates by.
	cron = "github.com/robfig/cron/v3"
)

// Package is a node of the import graph.
type Package struct {
	ImportPath string
	// Standard is true for the standard library.
	Standard bool
	// Imports are the import paths of direct imports.
	Imports []string
}

// Graph is a set of packages with everything that they import, by import path.
type Graph map[string]Package

// rule forbids some imports to some packages of the module.
type rule struct {
	why string
	// from are the packages that it binds, relative to the module: "pkg/agent"
	// stands for everything below it too. Empty: those that no list names.
	from []string
	// but are packages that it does not bind although from names what they are below.
	but []string
	// forbids reports whether a package must not be reached, or not be imported
	// when direct is set.
	forbids func(Package) bool
	direct  bool
}

var (
	contract   = []string{"pkg/wire", "pkg/score", "pkg/version", "pkg/printable"}
	apis       = []string{"pkg/apis"}
	agentSide  = []string{"pkg/agent", "pkg/deviceclient", "pkg/helper", "pkg/podman", "pkg/telemetry", "cmd/fleet-agent", "cmd/fleet-sim"}
	serverSide = []string{
		"pkg/adminapi", "pkg/apiserver", "pkg/assignment", "pkg/broker", "pkg/bus", "pkg/client", "pkg/clock", "pkg/controllers", "pkg/convert", "pkg/deviceapi", "pkg/embedserver", "pkg/english", "pkg/guard", "pkg/logging/capture", "pkg/natschart", "pkg/natskeys", "pkg/operator", "pkg/ops", "pkg/parts", "pkg/pki", "pkg/plane", "pkg/plugin", "pkg/reconcile", "pkg/registry", "pkg/release", "pkg/remotebus", "pkg/rollout", "pkg/roster", "pkg/tombstone", "cmd/fleet-server", "cmd/kubectl-fleet",
	}
	// heavy is what would make the agent as large as the server.
	heavy = []string{"k8s.io", "github.com/k3s-io/kine", natsServer}
	// cores are pure: they decide, and others act.
	cores = []string{"pkg/assignment", "pkg/rollout", "pkg/roster"}
	// containers is what knows of containers.
	containers = []string{module + "pkg/agent/container", module + "pkg/podman"}
	// natsRunners start a NATS server.
	natsRunners = []string{"pkg/broker", "pkg/embedserver", "cmd/fleet-server"}
	// device is what belongs on a device.
	device = []string{"github.com/containers", "github.com/cilium/ebpf", module + "pkg/agent", module + "pkg/deviceclient", module + "pkg/podman", module + "pkg/telemetry"}
)

var rules = []rule{
	{
		why:     "the contract imports the standard library only, and a parser that does so, too",
		from:    contract,
		forbids: func(p Package) bool { return !p.Standard && !within(p.ImportPath, append(inModule(contract), cron)...) },
	},
	{
		why:    "the API types import apimachinery only",
		from:   apis,
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, "k8s.io/apimachinery", module+"pkg/apis")
		},
	},
	{
		why:     "the agent side never imports Kubernetes, kine, the NATS server or the server side",
		from:    agentSide,
		forbids: func(p Package) bool { return within(p.ImportPath, slices.Concat(heavy, inModule(serverSide))...) },
	},
	{
		why:     "the server side never imports what runs on a device",
		from:    serverSide,
		forbids: func(p Package) bool { return within(p.ImportPath, device...) },
	},
	{
		why:  "what both sides share imports neither side",
		from: nil,
		forbids: func(p Package) bool {
			return within(p.ImportPath, slices.Concat(heavy, device, inModule(serverSide))...)
		},
	},
	{
		why:     "only pkg/broker and what runs it reach the NATS server: the rest works beside any NATS",
		from:    slices.DeleteFunc(slices.Clone(serverSide), func(p string) bool { return slices.Contains(natsRunners, p) }),
		forbids: func(p Package) bool { return within(p.ImportPath, natsServer, module+"pkg/broker") },
	},
	{
		why:  "the cores import the standard library and the contract only",
		from: cores,
		but:  []string{"pkg/rollout/rolloutspec"},
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, append(inModule(slices.Concat(contract, cores)), cron)...)
		},
	},
	{
		why:    "the form of a rollout imports apimachinery, the contract and the cores only",
		from:   []string{"pkg/rollout/rolloutspec"},
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, append(inModule(slices.Concat(contract, cores)), "k8s.io/apimachinery")...)
		},
	},
	{
		why:    "controllers import neither the broker nor the device API",
		from:   []string{"pkg/controllers"},
		direct: true,
		forbids: func(p Package) bool {
			return p.ImportPath == module+"pkg/broker" || p.ImportPath == module+"pkg/deviceapi"
		},
	},
	{
		why:    "the census counts what caches hold: it knows no client and no bus",
		from:   []string{"pkg/controllers/census"},
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, module+"pkg/apis", module+"pkg/controllers/assigner",
				"github.com/prometheus/client_golang/prometheus", "k8s.io/apimachinery/pkg", "k8s.io/client-go/tools/cache")
		},
	},
	{
		why:    "what speaks to NATS for others imports nats.go, the contract and the cores only",
		from:   []string{"pkg/bus", "pkg/deviceclient"},
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, append(inModule(slices.Concat(contract, cores)), "github.com/nats-io/nats.go")...)
		},
	},
	{
		why:     "the agent knows workloads by their drivers, and which there are is up to cmd/fleet-agent",
		from:    []string{"pkg/agent"},
		but:     []string{"pkg/agent/container", "pkg/agent/doctor"},
		forbids: func(p Package) bool { return within(p.ImportPath, containers...) },
	},
	{
		why:  "the seam of drivers imports the contract only, so that a driver links nothing of the agent",
		from: []string{"pkg/agent/workload"},
		but:  []string{"pkg/agent/workload/workloadtest"},
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, append(inModule(contract), cron)...)
		},
	},
	{
		why:    "the collector of garbage imports client-go and the work loop only: it knows objects by their metadata",
		from:   []string{"pkg/apiserver/collector"},
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, "k8s.io/apimachinery", "k8s.io/client-go", "k8s.io/utils", module+"pkg/guard", module+"pkg/reconcile")
		},
	},
	{
		why:    "pkg/settings imports YAML and flags only, for both sides",
		from:   []string{"pkg/settings"},
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, "go.yaml.in/yaml/v3", "github.com/spf13/pflag")
		},
	},
	{
		why:    "pkg/usage imports cobra and its flags only, for all programs",
		from:   []string{"pkg/usage"},
		direct: true,
		forbids: func(p Package) bool {
			return !p.Standard && !within(p.ImportPath, "github.com/spf13/cobra", "github.com/spf13/pflag")
		},
	},
	{
		why:     "pkg/atomicfile and pkg/settings know nothing of what they are for",
		from:    []string{"pkg/atomicfile", "pkg/settings"},
		forbids: func(p Package) bool { return within(p.ImportPath, strings.TrimSuffix(module, "/")) },
	},
	{
		why:     "only pkg/podman imports the podman bindings",
		from:    slices.DeleteFunc(slices.Concat(agentSide, serverSide), func(p string) bool { return p == "pkg/podman" }),
		direct:  true,
		forbids: func(p Package) bool { return within(p.ImportPath, "github.com/containers") },
	},
}

// binds reports whether the rule applies to a package. Only pkg and cmd are
// bound: tests may wire anything together.
func (r rule) binds(p Package) bool {
	if !within(p.ImportPath, module+"pkg", module+"cmd") {
		return false
	}
	if within(p.ImportPath, inModule(r.but)...) {
		return false
	}
	if len(r.from) > 0 {
		return within(p.ImportPath, inModule(r.from)...)
	}
	return !within(p.ImportPath, inModule(slices.Concat(contract, apis, agentSide, serverSide))...)
}

// Violations returns one line for each package that reaches what it must not,
// with the shortest chain of imports that leads there.
func Violations(g Graph) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(g)) {
		for _, r := range rules {
			if !r.binds(g[path]) {
				continue
			}
			if chain := g.chain(path, r); chain != nil {
				found = append(found, fmt.Sprintf("%s: %s", r.why, strings.Join(chain, " → ")))
			}
		}
	}
	return found
}

// chain searches breadth first for a package that the rule forbids to start.
func (g Graph) chain(start string, r rule) []string {
	parent := map[string]string{start: ""}
	for queue := []string{start}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, next := range g[at].Imports {
			if _, seen := parent[next]; seen {
				continue
			}
			parent[next] = at
			if r.forbids(g[next]) {
				return trace(parent, next)
			}
			if !r.direct {
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// trace follows the parents of a package back to the start.
func trace(parent map[string]string, end string) []string {
	var chain []string
	for at := end; at != ""; at = parent[at] {
		chain = append(chain, strings.TrimPrefix(at, module))
	}
	slices.Reverse(chain)
	return chain
}

// within reports whether path is one of the trees or below one.
func within(path string, trees ...string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool {
		return path == tree || strings.HasPrefix(path, tree+"/")
	})
}

func inModule(paths []string) []string {
	full := make([]string, len(paths))
	for i, p := range paths {
		full[i] = module + p
	}
	return full
}
