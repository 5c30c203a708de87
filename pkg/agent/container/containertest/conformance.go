package containertest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// patience bounds every wait of the suite: podman takes up to ten seconds to
// stop a container.
const patience = time.Minute

// Subject is a runtime under test.
type Subject struct {
	Runtime container.Runtime
	// Image is on the device already. It declares a volume at DeclaredPath, and a health
	// check that runs Exit("1") every 7 s, for at most 3 s, with 2 retries.
	Image string
	// Missing is an image that cannot be had.
	Missing string
	// Tag gives an image on the device another name.
	Tag func(t *testing.T, image, another string)
	// Sleep is a command of the image that runs until it is stopped, Exit one
	// that ends at once with a code from 0 to 9.
	Sleep []string
	Exit  func(code string) []string
	// Unchecked, when set, reports a failure if the runtime itself runs the health check of
	// a container.
	Unchecked func(t *testing.T, name string)
	// Talk is a command that writes as Talk does.
	Talk []string
	// Echo is a command that writes what it reads, Size one that writes the rows and
	// columns of its terminal in a line.
	Echo, Size []string
	// Check is a command that ends with code 0 if an environment variable and a
	// file have a content, and with another code otherwise.
	Check func(variable, path, content string) []string
}

// DeclaredPath is where the image of a Subject declares a volume.
const DeclaredPath = "/declared"

// Conformance checks that a runtime keeps the promises of container.Runtime.
// It leaves nothing behind.
func Conformance(t *testing.T, s Subject) {
	t.Helper()
	tests := map[string]func(*testing.T, Subject){
		"info":                 testInfo,
		"life":                 testLife,
		"exit code":            testExitCode,
		"logs":                 testLogs,
		"logs of what goes on": testFollow,
		"attach":               testAttach,
		"next":                 testNext,
		"trial":                testTrial,
		"command is missing":   testMissingCommand,
		"list of a Deployment": testList,
		"missing image":        testMissingImage,
		"images":               testImages,
		"port in use":          testPortInUse,
		"volumes":              testVolumes,
		"networks":             testNetworks,
		"modes of networks":    testModes,
		"volumes of an image":  testImageVolumes,
		"health check":         testHealthCheck,
		"commands":             testCommands,
		"bind mounts":          testBindMounts,
		"secrets":              testSecrets,
		"gone is no error":     testGone,
		"events":               testEvents,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func (s Subject) spec(t *testing.T, name string, command []string) *container.Spec {
	t.Helper()
	ref := wire.DeploymentRef{Namespace: "conformance", Name: name}
	t.Cleanup(func() { s.clean(t, ref) })
	return &container.Spec{
		Ref: ref, Service: "web", Hash: wire.Sum([]byte(name)).String(), Image: s.Image, Command: command, Restart: container.RestartNever, Grace: 7 * time.Second,
	}
}

// clean removes what a test made. The context of the test has ended by then.
func (s Subject) clean(t *testing.T, ref wire.DeploymentRef) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := s.Runtime.List(ctx, ref)
	for _, c := range list {
		err = errors.Join(err, s.Runtime.Stop(ctx, c.ID, 0), s.Runtime.Remove(ctx, c.ID))
	}
	volumes, listErr := s.Runtime.Volumes(ctx, ref)
	err = errors.Join(err, listErr)
	for _, v := range volumes {
		err = errors.Join(err, s.Runtime.RemoveVolume(ctx, v))
	}
	if err != nil {
		t.Errorf("cleaning up: %v", err)
	}
}

func (s Subject) run(t *testing.T, spec *container.Spec) string {
	t.Helper()
	id, err := s.Runtime.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Runtime.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func (s Subject) one(t *testing.T, ref wire.DeploymentRef) container.Container {
	t.Helper()
	list, err := s.Runtime.List(t.Context(), ref)
	if err != nil || len(list) != 1 {
		t.Fatalf("listed %v: %v", list, err)
	}
	return list[0]
}

// await waits until the only container of a Deployment satisfies ok.
func (s Subject) await(t *testing.T, ref wire.DeploymentRef, ok func(container.Container) bool) container.Container {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		c := s.one(t, ref)
		if ok(c) {
			return c
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("stays %+v", c)
		}
	}
}

func testInfo(t *testing.T, s Subject) {
	info, err := s.Runtime.Info(t.Context())
	if err != nil || info.Version == "" || info.Arch == "" || info.StoreSize == 0 || info.StoreUsed > info.StoreSize {
		t.Errorf("got %+v: %v", info, err)
	}
	// An image that was made here is for this device, and its user is root.
	if image, err := s.Runtime.Image(t.Context(), s.Image); err != nil || image.Arch != info.Arch || image.OS != "linux" || image.User != "" {
		t.Errorf("got %+v: %v", image, err)
	}
}

func testLife(t *testing.T, s Subject) {
	spec := s.spec(t, "life", s.Sleep)
	spec.PreStop = &container.Hook{HTTP: &container.HTTPProbe{Port: 80, Path: "/drain?a=<b>&c", Header: []string{"Host", "here"}}}
	id, err := s.Runtime.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	created := s.one(t, spec.Ref)
	if created.Grace != spec.Grace {
		t.Errorf("it has %v to end, want %v", created.Grace, spec.Grace)
	}
	if diff := gocmp.Diff(spec.PreStop, created.PreStop); diff != "" {
		t.Errorf("what is done before it ends: %s", diff)
	}
	if !created.Unstarted() || created.Created.IsZero() || !created.Started.IsZero() {
		t.Errorf("after create: %+v", created)
	}
	want := container.Container{Name: spec.Name(), Ref: spec.Ref, Service: spec.Service, Hash: spec.Hash}
	got := container.Container{Name: created.Name, Ref: created.Ref, Service: created.Service, Hash: created.Hash}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for range 2 { // to start what runs is no error
		if err := s.Runtime.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	running := s.one(t, spec.Ref)
	if running.State != container.StateRunning || running.Started.Before(running.Created) {
		t.Errorf("after start: %+v", running)
	}
	if _, err := s.Runtime.Create(t.Context(), spec); err == nil {
		t.Error("a second container got the same name")
	}
	for range 2 { // to stop what does not run is no error
		if err := s.Runtime.Stop(t.Context(), id, created.Grace); err != nil {
			t.Fatal(err)
		}
	}
	if stopped := s.await(t, spec.Ref, func(c container.Container) bool { return c.Ended() }); stopped.LooksInterrupted() {
		t.Errorf("after stop: %+v", stopped)
	}
	if err := s.Runtime.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Runtime.List(t.Context(), spec.Ref); err != nil || len(list) > 0 {
		t.Errorf("after remove: %v, %v", list, err)
	}
}

func testExitCode(t *testing.T, s Subject) {
	spec := s.spec(t, "exit-code", s.Exit("3"))
	s.run(t, spec)
	c := s.await(t, spec.Ref, func(c container.Container) bool { return c.Ended() })
	if c.ExitCode != 3 || c.Finished.IsZero() || c.LooksInterrupted() {
		t.Errorf("got %+v", c)
	}
	if c.Policy != container.RestartNever || c.PolicyRestarts != 0 {
		t.Errorf("the runtime itself restarts it: %+v", c)
	}
}

// testNext: a container can be prepared while another one of its service runs, and gets
// its name while it runs.
func testNext(t *testing.T, s Subject) {
	spec := s.spec(t, "next", s.Sleep)
	previous := s.run(t, spec)
	next, err := s.Runtime.Create(t.Context(), spec.At(container.StageNext))
	if err == nil {
		err = s.Runtime.Init(t.Context(), next)
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Runtime.List(t.Context(), spec.Ref)
	if err != nil || len(list) != 2 || list[0].State != container.StateRunning || !list[1].Unstarted() || list[1].Name != spec.Name()+string(container.StageNext) {
		t.Fatalf("prepared: %+v: %v", list, err)
	}
	if err := s.Runtime.Rename(t.Context(), next, spec.Name()); err == nil {
		t.Error("two containers have one name")
	}
	for _, do := range []func() error{
		func() error { return s.Runtime.Stop(t.Context(), previous, 0) },
		func() error { return s.Runtime.Start(t.Context(), next) },
		func() error { return s.Runtime.Remove(t.Context(), previous) },
		func() error { return s.Runtime.Rename(t.Context(), next, spec.Name()) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if c := s.one(t, spec.Ref); c.ID != next || c.Name != spec.Name() || c.State != container.StateRunning {
		t.Errorf("got %+v", c)
	}
}

// testTrial: a trial takes no port, and is removed without ever running.
func testTrial(t *testing.T, s Subject) {
	spec := s.spec(t, "trial", s.Sleep)
	spec.Ports = []container.Port{{Host: freePort(t), Inside: 80, Protocol: container.TCP}}
	s.run(t, spec)
	id, err := s.Runtime.Create(t.Context(), spec.At(container.StageTrial))
	if err == nil {
		err = s.Runtime.Init(t.Context(), id)
	}
	if err == nil {
		err = s.Runtime.Remove(t.Context(), id)
	}
	if err != nil {
		t.Error(err)
	}
	if c := s.one(t, spec.Ref); c.Name != spec.Name() || c.State != container.StateRunning {
		t.Errorf("got %+v", c)
	}
}

func testMissingCommand(t *testing.T, s Subject) {
	spec := s.spec(t, "missing-command", []string{MissingCommand})
	id, err := s.Runtime.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Runtime.Init(t.Context(), id); err == nil || !strings.Contains(err.Error(), MissingCommand) {
		t.Errorf("it could run: %v", err)
	}
	if err := s.Runtime.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func testList(t *testing.T, s Subject) {
	a, b := s.spec(t, "list-a", s.Sleep), s.spec(t, "list-b", s.Sleep)
	a2 := *a
	a2.Service = "api"
	for _, spec := range []*container.Spec{a, &a2, b} {
		if _, err := s.Runtime.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	if diff := gocmp.Diff([]string{a2.Name(), a.Name()}, s.names(t, a.Ref)); diff != "" {
		t.Error(diff)
	}
	all := s.names(t, wire.DeploymentRef{})
	if !slices.Contains(all, a.Name()) || !slices.Contains(all, b.Name()) {
		t.Errorf("all: %v", all)
	}
}

func (s Subject) names(t *testing.T, ref wire.DeploymentRef) []string {
	t.Helper()
	list, err := s.Runtime.List(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}

func testMissingImage(t *testing.T, s Subject) {
	for image, want := range map[string]bool{s.Image: true, s.Missing: false} {
		if got, err := s.Runtime.ImageExists(t.Context(), image); err != nil || got != want {
			t.Errorf("%s exists: %t, %v", image, got, err)
		}
	}
	if err := s.Runtime.Pull(t.Context(), s.Missing); !errors.Is(err, container.ErrImage) {
		t.Errorf("pulling %s: %v", s.Missing, err)
	}
}

// testImages: an image can be found by its names, and is removed with its last one, but
// not while a container was made from it.
func testImages(t *testing.T, s Subject) {
	const another, third = "localhost/conformance-another:1", "localhost/conformance-third:1"
	found, err := s.Runtime.Image(t.Context(), s.Image)
	if err != nil {
		t.Fatal(err)
	}
	id := found.ID
	s.Tag(t, s.Image, another)
	s.Tag(t, s.Image, third)
	if i := s.image(t, id); !slices.Contains(i.Names, another) || !slices.Contains(i.Names, third) || !slices.Contains(i.Names, s.Image) {
		t.Errorf("got %+v", i)
	}
	spec := s.spec(t, "images", s.Sleep)
	if _, err := s.Runtime.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if i := s.image(t, id); !i.Used {
		t.Errorf("a container was made from it: %+v", i)
	}
	for range 2 { // what is gone is no error
		for _, name := range []string{another, third} {
			if err := s.Runtime.RemoveImage(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if i := s.image(t, id); slices.Contains(i.Names, another) || !slices.Contains(i.Names, s.Image) {
		t.Errorf("after names were taken from it: %+v", i)
	}
	for _, nameOrID := range []string{s.Image, id} {
		if err := s.Runtime.RemoveImage(t.Context(), nameOrID); !errors.Is(err, container.ErrImageInUse) {
			t.Errorf("removing %s while a container was made from it: %v", nameOrID, err)
		}
	}
}

// image finds an image by its id.
func (s Subject) image(t *testing.T, id string) container.StoredImage {
	t.Helper()
	all, err := s.Runtime.Images(t.Context())
	at := slices.IndexFunc(all, func(i container.StoredImage) bool { return i.ID == id })
	if err != nil || at < 0 {
		t.Fatalf("image %s is not among %+v: %v", id, all, err)
	}
	return all[at]
}

func testPortInUse(t *testing.T, s Subject) {
	taken := container.Port{Host: freePort(t), Inside: 80, Protocol: container.TCP}
	first, second := s.spec(t, "port-a", s.Sleep), s.spec(t, "port-b", s.Sleep)
	first.Ports, second.Ports = []container.Port{taken}, []container.Port{taken}
	s.run(t, first)
	id, err := s.Runtime.Create(t.Context(), second)
	if err == nil {
		err = s.Runtime.Start(t.Context(), id)
	}
	if !errors.Is(err, container.ErrPortInUse) {
		t.Errorf("got %v", err)
	}
}

// freePort returns a port that was free a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("listening on %v", l.Addr())
	}
	return addr.AddrPort().Port()
}

func testVolumes(t *testing.T, s Subject) {
	spec := s.spec(t, "volumes", s.Sleep)
	name := container.ObjectName(spec.Ref, "data")
	for range 2 {
		if got, err := s.Runtime.EnsureVolume(t.Context(), spec.Ref, name, "", 0); err != nil || got != name {
			t.Fatalf("got %s: %v", got, err)
		}
	}
	stranger := wire.DeploymentRef{Namespace: "conformance", Name: "stranger"}
	if _, err := s.Runtime.EnsureVolume(t.Context(), stranger, name, "", 0); err == nil {
		t.Error("a Deployment got the volume of another")
	}
	spec.Mounts = []container.Mount{{Volume: name, Path: "/data", ReadOnly: true}}
	id := s.run(t, spec)
	named := slices.DeleteFunc(s.one(t, spec.Ref).Volumes, func(m container.Mount) bool { return m.Path == DeclaredPath })
	if diff := gocmp.Diff(spec.Mounts, named); diff != "" {
		t.Errorf("the volumes of the container: %s", diff)
	}
	if err := errors.Join(s.Runtime.Stop(t.Context(), id, 0), s.Runtime.Remove(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Runtime.Volumes(t.Context(), spec.Ref)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]string{name}, got); diff != "" {
		t.Errorf("after its container was removed: %s", diff)
	}
	all, err := s.Runtime.Volumes(t.Context(), wire.DeploymentRef{})
	if err != nil || !slices.Contains(all, name) {
		t.Errorf("all volumes: %v, %v", all, err)
	}
	if err := s.Runtime.RemoveVolume(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Runtime.Volumes(t.Context(), spec.Ref); err != nil || len(got) > 0 {
		t.Errorf("after it was removed: %v, %v", got, err)
	}
}

// testHealthCheck: what an image says of its health is known, kept with the container,
// and not run by the runtime.
func testHealthCheck(t *testing.T, s Subject) {
	want := &container.Probe{Exec: s.Exit("1"), Period: 7 * time.Second, Timeout: 3 * time.Second, Until: 5 * time.Second, Failures: 2}
	image, err := s.Runtime.Image(t.Context(), s.Image)
	if diff := gocmp.Diff(want, image.HealthCheck); err != nil || diff != "" {
		t.Fatalf("the health check of the image: %v %s", err, diff)
	}
	spec := s.spec(t, "health", s.Sleep)
	spec.HealthCheck = image.HealthCheck
	s.run(t, spec)
	if diff := gocmp.Diff(want, s.one(t, spec.Ref).HealthCheck); diff != "" {
		t.Errorf("the health check of the container: %s", diff)
	}
	if s.Unchecked != nil {
		s.Unchecked(t, spec.Name())
	}
}

// testCommands: a command runs in a container and says how it ended, or goes on.
func testCommands(t *testing.T, s Subject) {
	spec := s.spec(t, "commands", s.Sleep)
	id := s.run(t, spec)
	for _, code := range []int{0, 3} {
		done, err := s.Runtime.Exec(t.Context(), id, s.Exit(strconv.Itoa(code)))
		if err != nil || done.Running || done.Code != code || !bytes.HasPrefix(done.Output, []byte("line 0\nline 1\n")) {
			t.Errorf("a command that ends with %d: %+v, %v", code, done, err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done, err := s.Runtime.Exec(short, id, s.Sleep)
	if !errors.Is(err, context.DeadlineExceeded) || !done.Running {
		t.Errorf("a command that does not end: %+v, %v", done, err)
	}
	if runs, err := s.Runtime.Executing(t.Context(), done.Session); err != nil || !runs {
		t.Errorf("it does not run any more: %v", err)
	}
	if err := s.Runtime.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if runs, err := s.Runtime.Executing(t.Context(), done.Session); err != nil || runs {
		t.Errorf("after the container ended it still runs: %v", err)
	}
	if _, err := s.Runtime.Exec(t.Context(), id, s.Exit("0")); err == nil {
		t.Error("a command ran in a container that does not run")
	}
}

// testImageVolumes: what an image declares has no name until a volume of the
// Deployment stands for it, and outlives its container in any case.
func testImageVolumes(t *testing.T, s Subject) {
	if got, err := s.Runtime.Image(t.Context(), s.Image); err != nil || !slices.Equal(got.Volumes, []string{DeclaredPath}) {
		t.Fatalf("the image declares %v: %v", got, err)
	}
	if got, err := s.Runtime.Image(t.Context(), s.Missing); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("an image that is not there declares %v: %v", got, err)
	}
	spec := s.spec(t, "declared", s.Sleep)
	id := s.run(t, spec)
	volumes := s.one(t, spec.Ref).Volumes
	if len(volumes) != 1 || volumes[0].Path != DeclaredPath || !container.Anonymous(volumes[0].Volume) {
		t.Fatalf("the volumes of the container: %+v", volumes)
	}
	anonymous, name := volumes[0].Volume, container.ImageVolume(spec.Ref, spec.Service, DeclaredPath)
	for _, adopts := range []string{anonymous, "", anonymous} { // the first counts
		if got, err := s.Runtime.EnsureVolume(t.Context(), spec.Ref, name, adopts, 0); err != nil || got != anonymous {
			t.Errorf("%s stands for %s, want %s: %v", name, got, anonymous, err)
		}
	}
	if err := errors.Join(s.Runtime.Stop(t.Context(), id, 0), s.Runtime.Remove(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = []container.Mount{{Volume: anonymous, Path: DeclaredPath}}
	s.run(t, spec)
	if diff := gocmp.Diff(spec.Mounts, s.one(t, spec.Ref).Volumes); diff != "" {
		t.Errorf("the volumes of the next container: %s", diff)
	}
	want := slices.Sorted(slices.Values([]string{anonymous, name}))
	if got, err := s.Runtime.Volumes(t.Context(), spec.Ref); err != nil || !slices.Equal(got, want) {
		t.Errorf("the volumes of the Deployment are %v, want %v: %v", got, want, err)
	}
	if err := s.Runtime.Clear(t.Context(), s.one(t, spec.Ref).ID); err != nil {
		t.Error(err)
	}
	if err := s.Runtime.RemoveVolume(t.Context(), anonymous); err != nil { // as somebody may
		t.Error(err)
	}
	if got, err := s.Runtime.EnsureVolume(t.Context(), spec.Ref, name, anonymous, 0); err != nil || got != name {
		t.Errorf("%s stands for %s, which is not there: %v", name, got, err)
	}
	s.clean(t, spec.Ref)
	// What the runtime knows no more, as after the loss of its database, is adopted again.
	if got, err := s.Runtime.EnsureVolume(t.Context(), spec.Ref, name, anonymous, 0); err != nil || got != anonymous {
		t.Errorf("%s stands for %s, want %s: %v", name, got, anonymous, err)
	}
}

// testBindMounts: what is mounted can be looked up, whoever made the container.
func testBindMounts(t *testing.T, s Subject) {
	spec := s.spec(t, "mounts", s.Sleep)
	spec.Mounts = []container.Mount{{HostPath: "/srv", Path: "/a"}, {HostPath: "/usr/share", Path: "/b", ReadOnly: true}}
	if _, err := s.Runtime.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	got := s.one(t, spec.Ref).Mounts
	slices.SortFunc(got, func(a, b container.Mount) int { return cmp.Compare(a.Path, b.Path) })
	if diff := gocmp.Diff(spec.Mounts, got); diff != "" {
		t.Error(diff)
	}
}

func testSecrets(t *testing.T, s Subject) {
	const content = "not for everybody\n=,"
	spec := s.spec(t, "secrets", s.Check("SECRET", "/etc/deep/file.key", content))
	name := container.ObjectName(spec.Ref, "0123456789abcdef")
	for range 2 {
		if err := s.Runtime.EnsureSecret(t.Context(), name, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	spec.SecretEnv = map[string]string{"SECRET": name}
	spec.SecretFiles = map[string]string{"/etc/deep/file.key": name}
	s.run(t, spec)
	if c := s.await(t, spec.Ref, func(c container.Container) bool { return c.Ended() }); c.ExitCode != 0 {
		t.Errorf("the container does not see the secret: %+v", c)
	}
	for _, ref := range []wire.DeploymentRef{spec.Ref, {}} {
		if got, err := s.Runtime.Secrets(t.Context(), ref); err != nil || !slices.Contains(got, name) {
			t.Errorf("secrets of %v: %v, %v", ref, got, err)
		}
	}
	if got, err := s.Runtime.Secrets(t.Context(), wire.DeploymentRef{Namespace: "conformance", Name: "stranger"}); err != nil || len(got) > 0 {
		t.Errorf("secrets of another Deployment: %v, %v", got, err)
	}
	for range 2 {
		if err := s.Runtime.RemoveSecret(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Runtime.Secrets(t.Context(), spec.Ref); err != nil || len(got) > 0 {
		t.Errorf("after it was removed: %v, %v", got, err)
	}
}

func testGone(t *testing.T, s Subject) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	if err := s.Runtime.Start(t.Context(), id); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("start: %v", err)
	}
	if err := s.Runtime.Stop(t.Context(), id, 0); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := s.Runtime.Remove(t.Context(), id); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := s.Runtime.RemoveVolume(t.Context(), "conformance_gone_data"); err != nil {
		t.Errorf("remove volume: %v", err)
	}
}

func testEvents(t *testing.T, s Subject) {
	spec := s.spec(t, "events", s.Exit("0"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ready := make(chan struct{})
	// Room for more changes than one short life has: Watch must not block.
	changes := make(chan wire.DeploymentRef, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Runtime.Watch(ctx, func() { close(ready) }, func(ref wire.DeploymentRef) { changes <- ref })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	s.run(t, spec)
	s.awaitEnd(ctx, t, spec.Ref, changes)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

// awaitEnd looks at the container at each change, and only then, until it ended.
func (s Subject) awaitEnd(ctx context.Context, t *testing.T, ref wire.DeploymentRef, changes <-chan wire.DeploymentRef) {
	t.Helper()
	for {
		select {
		case changed := <-changes:
			// Other tests may use the same runtime.
			if c := s.one(t, ref); changed == ref && c.Ended() {
				return
			}
		case <-ctx.Done():
			t.Fatal("no event after the container ended")
		}
	}
}
