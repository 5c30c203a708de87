# fleet: build, checks, tests. `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SILENT:

# One set of flags for every go command, so that build, vet, lint and tests
# share one build cache: a cold compile of the server takes minutes. The tags
# keep cgo and container storage drivers out of the podman client.
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false -trimpath -tags=remote,exclude_graphdriver_btrfs,containers_image_openpgp

# safe.directory: a checkout may belong to another user, as in a container.
GIT := git -c safe.directory='*'
VERSION ?= $(shell tools/version.sh)
# The newest change: the server takes a clock that says less for wrong.
BUILT ?= $(shell $(GIT) log -1 --format=%cI 2>/dev/null)
MODULE := fleet.nationtech.io/fleet
TOOL := go tool -modfile=tools/go.mod

# What the embedded apiserver says of itself: the release of k8s.io/apiserver in go.mod.
KUBE_MAJOR := 1
KUBE_MINOR := 37
KUBE_VERSION := v1.37.2
KUBE_LDFLAGS := -X k8s.io/component-base/version.gitVersion=$(KUBE_VERSION) \
	-X k8s.io/component-base/version.gitMajor=$(KUBE_MAJOR) -X k8s.io/component-base/version.gitMinor=$(KUBE_MINOR)
LDFLAGS := -s -w -X $(MODULE)/pkg/version.Version=$(VERSION) $(if $(BUILT),-X $(MODULE)/pkg/version.Built=$(BUILT))

# Whose releases fleet-server trusts by itself, when the key that signs is named:
# base64 of the DER form of its public key.
RELEASE_PUBLIC := $(if $(FLEET_RELEASE_KEY),$(shell openssl pkey -in '$(FLEET_RELEASE_KEY)' -pubout -outform DER | base64 -w0))
RELEASE_LDFLAGS := $(if $(RELEASE_PUBLIC),-X $(MODULE)/pkg/release.compiledKey=$(RELEASE_PUBLIC))

BINARIES := $(patsubst cmd/%/main.go,%,$(wildcard cmd/*/main.go))
SOURCES := $(wildcard cmd packaging pkg test tools)

# Packages by the kind of their tests. Integration: real NATS, or the real
# apiserver on real SQLite, in process. End to end: booted machines, and power
# cuts of the server as shipped.
PACKAGES = $(shell go list -find ./...)
E2E = $(filter $(addprefix $(MODULE)/,test/e2e% test/lab% test/packages% test/install% test/demo% test/durability% test/compat%),$(PACKAGES))
INTEGRATION = $(filter $(addprefix $(MODULE)/,test/integration% test/api% test/attack% pkg/apiserver% pkg/broker% \
	pkg/controllers% pkg/deviceapi% pkg/embedserver% cmd/fleet-server%),$(PACKAGES))
# CORES decide without doing anything.
CORES = pkg/wire pkg/score pkg/roster pkg/assignment pkg/agent/plan pkg/agent/container/plan pkg/controllers/acceptance
UNIT = $(filter-out $(E2E) $(INTEGRATION) $(MODULE)/test/arch,$(PACKAGES))
# The race detector needs cgo, which would swap the SQLite driver: packages
# that link the apiserver are left out.
RACE = $(filter $(addprefix $(MODULE)/,pkg/wire pkg/score pkg/roster pkg/tombstone pkg/parts pkg/plane pkg/bus pkg/agent% pkg/deviceapi% pkg/controllers%),$(PACKAGES))

FUZZTIME ?= 10s
DEVICES ?= 20
GROUP_SIZES ?= 10,5,5
DURATION ?= 20
SOAK_SECONDS ?= 3600
CUTS ?= 100
DEVICE_CUTS ?= 50
DEVICE_KILLS ?= 100
DEVICE_STEPS ?= 300
MODEL_SEEDS ?= 100
MODEL_STEPS ?= 10000
# make test-rollouts: how many random steps rollouts take.
ROLLOUT_STEPS ?= 1000000
SOAK_FUZZTIME ?= 10m

# In: the output of `go build -v`. Out: one line for every 100 packages, and errors.
COUNT = { n=0; while IFS= read -r line; do case $$line in \
	'' | *[[:blank:]]*) printf '%s\n' "$$line" ;; \
	*) n=$$((n + 1)); [ $$((n % 100)) -ne 0 ] || echo "    $$n packages compiled" ;; \
	esac; done; }

##@ Build

.PHONY: help
help: ## list the targets
	awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(addprefix bin/,$(BINARIES)) ## build bin/fleet-server, bin/fleet-agent, bin/fleet-sim and bin/kubectl-fleet

OUTPUT = $@
.PHONY: $(addprefix bin/,$(BINARIES))
bin/fleet-server: LDFLAGS += $(KUBE_LDFLAGS) $(RELEASE_LDFLAGS)
bin/kubectl-fleet: LDFLAGS += $(KUBE_LDFLAGS)
$(addprefix bin/,$(BINARIES)): bin/%: | go
	echo "==> $(OUTPUT) $(VERSION)"
	go build -v -ldflags '$(LDFLAGS)' -o $(OUTPUT) ./cmd/$* 2>&1 | $(COUNT)

# Packages: Debian's names of architectures.
ARCHES ?= amd64 arm64 armhf
DIST ?= dist
# Channels of mirrors that may offer the release: the signature covers them.
CHANNELS ?= stable
export SOURCE_DATE_EPOCH ?= $(shell $(GIT) log -1 --format=%ct 2>/dev/null || echo 1793491200)

.PHONY: packages
packages: build | tools ## deb, rpm, static binaries, checksums in dist/: ARCHES="amd64 arm64 armhf"
	rm -rf $(DIST).partial
	mkdir -p $(DIST).partial
	for arch in $(ARCHES); do \
		case $$arch in armhf) goarch=arm ;; *) goarch=$$arch ;; esac; \
		GOARCH=$$goarch GOARM=7 $(MAKE) --no-print-directory VERSION=$(VERSION) \
			$(foreach p,fleet-agent fleet-server,$(DIST).partial/$(p)_$(VERSION)_linux_$$goarch); \
	done
	echo "==> packages"
	go -C tools run ./release -version $(VERSION) -channels "$(CHANNELS)" -arches "$(ARCHES)" -dir $(DIST).partial
	rm -rf $(DIST)
	mv $(DIST).partial $(DIST)

BUNDLE ?= fleet-bundle_$(VERSION).tar
# When the images were put together, in seconds: a gateway takes no older ones.
BUNDLE_TIME ?= $(shell date +%s)

.PHONY: bundle
bundle: packages ## all of dist/ and IMAGES="web.tar db.tar" (OCI archives) in one file, for a site without internet
	echo "==> $(BUNDLE)"
	go -C tools run ./release bundle -dir $(DIST) -images "$(IMAGES)" -time $(BUNDLE_TIME) -out $(BUNDLE)

REVISION ?= $(shell $(GIT) rev-parse HEAD 2>/dev/null)
# Without images of others, a bundle is as old as its sources: equal sources give an equal release.
RELEASE_TIME := $(if $(IMAGES),$(BUNDLE_TIME),$(SOURCE_DATE_EPOCH))

.PHONY: release
release: ## all that is published, signed, in dist/release: packages, bundle, container image, SBOMs, changes
	echo "==> release $(VERSION)"
	go -C tools run ./release check -version $(VERSION) -arches "$(ARCHES)"
	rm -rf $(DIST)
	$(MAKE) --no-print-directory bundle VERSION=$(VERSION) DIST=$(DIST)/packages BUNDLE=$(DIST)/bundle.tar BUNDLE_TIME=$(RELEASE_TIME)
	$(MAKE) --no-print-directory plugins VERSION=$(VERSION)
	echo "==> $(DIST)/release"
	go -C tools run ./release gather -version $(VERSION) -revision "$(REVISION)" -arches "$(ARCHES)" \
		-packages $(DIST)/packages -plugins $(DIST)/plugins -bundle $(DIST)/bundle.tar -dir $(DIST)/release
	rm $(DIST)/bundle.tar # it has a name in the release

# What was built for this machine already is not linked again.
$(DIST).partial/%:
	program=$(firstword $(subst _, ,$*)); \
	if [ "$$GOARCH" = "$$(env -u GOARCH go env GOARCH)" ]; then cp bin/$$program $@; \
	else $(MAKE) --no-print-directory bin/$$program OUTPUT=$@; fi

# The plugin of kubectl runs where operators sit. Its programs are put together with
# kubectl_complete-fleet by `make release`.
PLUGIN_PLATFORMS ?= linux/amd64 linux/arm64 linux/arm darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: plugins
plugins: ## the plugin of kubectl for other machines, in dist/plugins: PLUGIN_PLATFORMS="linux/amd64 darwin/arm64 …"
	rm -rf $(DIST)/plugins
	for platform in $(PLUGIN_PLATFORMS); do \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} GOARM=7 $(MAKE) --no-print-directory VERSION=$(VERSION) bin/kubectl-fleet \
			OUTPUT=$(DIST)/plugins/kubectl-fleet_$(VERSION)_$${platform%/*}_$${platform#*/}; \
	done

.PHONY: generate
generate: ## write again what is generated: deepcopy, CRDs, OpenAPI, docs/reference/api.md, the schema of scores
	go generate $(addsuffix /...,$(addprefix ./,$(wildcard pkg/apis pkg/apiserver pkg/scoreschema)))

# A Go from 1.21 on fetches the release of go.mod itself.
.PHONY: go
go:
	found=$$(go version 2>/dev/null | awk '{print substr($$3, 3)}') && \
	printf '%s\n' 1.21 "$${found:-0}" | sort --check --version-sort 2>/dev/null || { \
		echo "make: Go $${found:-is missing}$${found:+ is too old}: fleet needs Go $$(awk '/^go /{print $$2}' go.mod), see https://go.dev/dl" >&2; exit 1; }

.PHONY: tools
tools: ## install the Debian packages that checks and tests need; other targets do it, too
	tools/install-packages.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(DIST) $(DIST).partial fleet-bundle_*.tar

##@ Fast checks

.PHONY: check
check: fmt-check shellcheck generate-check vet types lint arch ## run all of them

.PHONY: fmt-check
fmt-check: ## fail on Go files that gofmt would change
	echo "==> gofmt"
	unformatted=$$(gofmt -s -l $(SOURCES)); \
	[ -z "$$unformatted" ] || { printf 'run gofmt -s -w on:\n%s\n' "$$unformatted" >&2; exit 1; }

.PHONY: shellcheck
shellcheck: | tools ## check every shell script
	echo "==> shellcheck"
	tools/shellcheck.sh

.PHONY: generate-check
generate-check: ## fail when generating again changes a file
	echo "==> generated files"
	tools/generate-check.sh

.PHONY: vet
vet: ## go vet
	echo "==> go vet"
	go vet ./...
	go -C tools vet ./...

.PHONY: types
types: ## types on the other architectures of a release, and of the plugin on other systems: arm has 32 bits
	echo "==> types on arm64 and arm, and of kubectl-fleet on darwin and windows"
	go -C tools run ./typecheck -arches "arm64 arm"
	for system in darwin windows; do \
		go -C tools run ./typecheck -system $$system -arches "amd64" -program ./cmd/kubectl-fleet; \
	done

.PHONY: lint
lint: ## staticcheck
	echo "==> staticcheck"
	$(TOOL) staticcheck ./...
	go -C tools tool staticcheck ./...

.PHONY: arch
arch: | tools ## import directions and package docs
	echo "==> import directions"
	go test -count=1 ./test/arch # its input is the tree, which the test cache does not see

##@ Tests

.PHONY: test
test: check build test-unit test-integration test-race test-fuzz test-load test-installer test-e2e ## run all of them, on the binaries as shipped

.PHONY: test-unit
test-unit: arch | tools ## unit and property tests
	echo "==> unit tests"
	go test $(UNIT)
	go -C tools test ./...

.PHONY: test-integration
test-integration: | tools ## real NATS, and the real apiserver on real SQLite, in process
	echo "==> integration tests"
	go test -timeout 15m $(or $(INTEGRATION),$(error no integration tests found))

.PHONY: test-race
test-race: | tools ## the race detector on code of ours
	echo "==> race detector"
	CGO_ENABLED=1 go test -race -timeout 15m $(RACE)

.PHONY: test-fuzz
test-fuzz: ## every fuzz target for FUZZTIME each (10s)
	echo "==> fuzz targets, $(FUZZTIME) each"
	tools/fuzz.sh $(FUZZTIME)

.PHONY: test-installer
test-installer: | tools ## install.sh on its own, under dash and busybox
	echo "==> install.sh"
	FLEET_SH=dash bats test/install/install.bats & dash=$$!; busybox=0; \
	FLEET_SH="busybox sh" bats test/install/install.bats || busybox=$$?; wait $$dash && exit $$busybox

.PHONY: test-e2e
test-e2e: build | tools ## booted machines with real podman (needs root)
	echo "==> end-to-end tests"
	go test -count=1 -timeout 25m -p 1 $(or $(E2E),$(error no end-to-end tests found))

.PHONY: test-vm
test-vm: build ## virtual machines under libvirt (needs root): FLEET_VM_SUITE=bookworm FLEET_VM_ARCH=amd64 FLEET_VM_DEVICES=2
	echo "==> virtual machines"
	tools/install-packages.sh vm
	mkdir -p .cache/vm
	$(MAKE) --no-print-directory packages ARCHES=$${FLEET_VM_ARCH:-$$(go env GOARCH)} DIST=.cache/vm/dist
	FLEET_TEST_VM=1 go test -count=1 -v -timeout 40m ./test/vm

# Programs of others, each in a module of its own: nothing that they need is linked
# into ours.
INTEROP := kstatus helm k9s
bin/interop/kstatus: PROGRAM := .
bin/interop/helm: PROGRAM := helm.sh/helm/v4/cmd/helm
bin/interop/k9s: PROGRAM := github.com/derailed/k9s
.PHONY: $(addprefix bin/interop/,$(INTEROP))
$(addprefix bin/interop/,$(INTEROP)): bin/interop/%:
	echo "==> $@"
	go -C tools/$* build -v -ldflags '-s -w' -o $(CURDIR)/$@ $(PROGRAM) 2>&1 | $(COUNT)

bin/interop/kubectl:
	echo "==> $@ of Debian's archive"
	tools/debian-kubectl.sh $@

.PHONY: interop
interop: build $(addprefix bin/interop/,$(INTEROP)) bin/interop/kubectl ## programs of others on a server: Helm, k9s, kstatus, an old kubectl (compiles them: 15 minutes)
	echo "==> programs of others"
	go -C tools/kstatus vet .
	FLEET_INTEROP=1 go test -count=1 -timeout 10m ./test/interop

.PHONY: test-load
test-load: DURATION = 5
test-load: load-test ## the load test, short

.PHONY: vulncheck
vulncheck: ## known vulnerabilities in what is linked (needs vuln.go.dev)
	$(TOOL) govulncheck ./...

##@ Try it

.PHONY: demo
demo: build ## a server, a device, and a container on it
	go run ./test/demo up

.PHONY: demo-down
demo-down: ## remove what demo made, but for caches and Debian packages
	go run ./test/demo down

.PHONY: load-test
load-test: build ## simulated devices: DEVICES=20 GROUP_SIZES=10,5,5 DURATION=20 (seconds)
	go run ./test/load -devices $(DEVICES) -group-sizes $(GROUP_SIZES) -duration $(DURATION)s

.PHONY: soak
soak: DURATION = $(SOAK_SECONDS)
soak: load-test test-cuts test-survival test-model test-rollouts attack fuzz ## the load test for SOAK_SECONDS (an hour), CUTS power cuts (100), devices that lose power and processes, random stories, attacks in full, fuzzing

.PHONY: test-cuts
test-cuts: build | tools
	echo "==> $(CUTS) power cuts"
	FLEET_CUTS=$(CUTS) go test -count=1 -timeout 2h ./test/durability

.PHONY: test-survival
test-survival: build | tools ## power cuts (DEVICE_CUTS=50) and kills (DEVICE_KILLS=100) of a device with podman, and random steps (DEVICE_STEPS=300)
	echo "==> $(DEVICE_CUTS) power cuts, $(DEVICE_KILLS) kills and $(DEVICE_STEPS) random steps of a device"
	FLEET_DEVICE_CUTS=$(DEVICE_CUTS) FLEET_DEVICE_KILLS=$(DEVICE_KILLS) FLEET_DEVICE_STEPS=$(DEVICE_STEPS) go test -count=1 -v -timeout 4h -run 'TestSurvival|TestStorage' ./test/e2e

.PHONY: test-model
test-model: ## random stories of an agent against a model: MODEL_SEEDS=100 MODEL_STEPS=10000
	echo "==> $(MODEL_SEEDS) stories of $(MODEL_STEPS) steps"
	FLEET_MODEL_SEEDS=$(MODEL_SEEDS) FLEET_MODEL_STEPS=$(MODEL_STEPS) go test -count=1 -timeout 4h -run TestAgainstAModel ./pkg/agent

.PHONY: test-rollouts
test-rollouts: ## random stories of rollouts against a model: ROLLOUT_STEPS=1000000
	echo "==> rollouts, $(ROLLOUT_STEPS) steps"
	FLEET_ROLLOUT_STEPS=$(ROLLOUT_STEPS) go test -count=1 -timeout 4h -run TestAgainstAModel ./pkg/rollout

.PHONY: attack
attack: build | tools ## attack a server in full: response times of others compared, 1,000 connections
	echo "==> attacks in full"
	FLEET_ATTACK=full go test -count=1 -timeout 1h ./test/attack
	FLEET_ATTACK=full go test -count=1 -timeout 10m -run TestRevocation ./test/integration

.PHONY: fuzz
fuzz: ## every fuzz target for SOAK_FUZZTIME each (10m); what it finds stays in testdata/fuzz
	echo "==> fuzz targets, $(SOAK_FUZZTIME) each"
	tools/fuzz.sh $(SOAK_FUZZTIME) keep

.PHONY: mutate
mutate: ## change the pure cores, and fail when their own tests do not see nine changes of ten
	for package in $(CORES); do \
		echo "==> mutants of $$package"; \
		go tool -modfile=tools/mutate/go.mod gremlins unleash --workers 1 --timeout-coefficient 10 --output-statuses lctv --config tools/mutate/gremlins.yaml ./$$package || exit 1; \
	done

.PHONY: bench
bench: build | tools ## measure, beside BASE=COMMIT if given, print a table and write docs/benchmarks.md
	if [ -n "$(BASE)" ]; then \
		rm -rf bin/before && mkdir -p bin/before && git archive $(BASE) | tar -x -C bin/before && $(MAKE) -C bin/before build; \
	fi
	go run ./test/bench -store-after 10m $(if $(BASE),-before bin/before/bin) $(BENCHFLAGS)
