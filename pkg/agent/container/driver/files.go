package driver

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// A volume of files has them twice, in the directories firstHalf and secondHalf, so that one
// can be written while the other is in use. current is a link to the one in use, and each
// name that people gave is a link to the file below current. told says what was written
// whole, and that services were told of it: the mark of the contents, and the half.
const (
	firstHalf, secondHalf = "..a", "..b"
	current, told         = "..data", "..told"
)

// filesAt is where a carrier sees the volumes of files: nowhere that an image has something.
const filesAt = "/fleet-files"

// withFiles returns a spec that mounts its volumes of files, whatever an image has there.
func withFiles(spec *container.Spec) *container.Spec {
	with := *spec
	with.Mounts = slices.Clone(spec.Mounts)
	for _, set := range spec.Files {
		with.Mounts = append(with.Mounts, container.Mount{Volume: set.Volume, Path: set.Path, ReadOnly: true})
	}
	return &with
}

// fill writes the files of a spec before its container starts. Written anew they are whole,
// whatever a power cut left of them.
func (i *instance) fill(ctx context.Context, spec *container.Spec) error {
	if len(spec.Files) == 0 {
		return nil
	}
	return i.carry(ctx, spec, func(carrier string) error {
		for n := range spec.Files {
			if err := i.runtime.Unpack(ctx, carrier, carried(n), whole(&spec.Files[n])); err != nil {
				return err
			}
		}
		return nil
	})
}

// fillOnce writes files of a spec unless that was done for another stage of it.
func (i *instance) fillOnce(ctx context.Context, spec *container.Spec) error {
	i.mu.Lock()
	done := i.filled[spec.Hash]
	i.mu.Unlock()
	if done {
		return nil
	}
	if err := i.fill(ctx, spec); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.filled[spec.Hash] = true
	return nil
}

func carried(n int) string { return fmt.Sprintf("%s/%d", filesAt, n) }

// carry makes a container that mounts the volumes of files, hands it to write, and removes it.
// It never runs. A runtime writes into a container what it may only read itself as little as
// it can, so that the files of a running one get there by way of another.
func (i *instance) carry(ctx context.Context, spec *container.Spec, write func(carrier string) error) (err error) {
	image, err := i.runtime.Image(ctx, spec.Image)
	if err != nil {
		return err
	}
	carrier := &container.Spec{
		Ref: spec.Ref, Service: spec.Service, Stage: container.StageFiles, Hash: spec.Hash, Image: spec.Image, Command: spec.Command, Args: spec.Args,
		Restart: container.RestartNever, Grace: spec.Grace,
	}
	carrier.Rights.Account = spec.Rights.Account // owners of files are users of the service
	for n, set := range spec.Files {
		if _, err := i.runtime.EnsureVolume(ctx, spec.Ref, set.Volume, "", 0); err != nil {
			return err
		}
		carrier.Mounts = append(carrier.Mounts, container.Mount{Volume: set.Volume, Path: carried(n)})
	}
	for _, m := range spec.Mounts { // or podman would make volumes for what the image declares
		if m.Volume != "" {
			carrier.Mounts = append(carrier.Mounts, m)
		}
	}
	if carrier, err = i.withImage(ctx, carrier, &image); err != nil {
		return err
	}
	id, err := i.runtime.Create(ctx, carrier)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.discard(context.WithoutCancel(ctx), id)) }()
	return write(id)
}

// refill writes the files of a container once more that is about to start, if they may have
// changed or been torn since it was made.
func (i *instance) refill(ctx context.Context, id string) error {
	c := slices.IndexFunc(i.containers, func(c container.Container) bool { return c.ID == id })
	if c < 0 {
		return nil // it was just made
	}
	observed := &i.containers[c]
	spec := i.specOf(observed)
	if spec == nil || !observed.Interrupted() && !observed.Unstarted() && !isLive(spec) {
		return nil
	}
	return i.fill(ctx, spec)
}

func isLive(spec *container.Spec) bool {
	return slices.ContainsFunc(spec.Files, func(s container.FileSet) bool { return s.Live })
}

// specOf is what a container was made of, as far as that is still wanted; or nil.
func (i *instance) specOf(c *container.Container) *container.Spec {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := range i.planned {
		if s := &i.planned[n]; s.Service == c.Service && s.Hash == c.Hash {
			return s
		}
	}
	return nil
}

// exchanges lists the steps that put other contents into volumes which running containers
// use.
func (i *instance) exchanges(ctx context.Context, w *plan.Workload) (steps []workload.Step, err error) {
	plan.Serving(w, i.containers, func(spec *container.Spec, c *container.Container) {
		stale := map[int]string{} // the half in use, by the number of the set
		for n := range spec.Files {
			set := &spec.Files[n]
			if !set.Live || err != nil {
				continue
			}
			content, readErr := i.runtime.ReadFile(ctx, c.ID, path.Join(set.Path, told))
			if errors.Is(readErr, container.ErrUnavailable) {
				err = readErr
			}
			mark, half, _ := strings.Cut(strings.TrimSpace(string(content)), " ")
			if readErr != nil || mark != set.Mark {
				stale[n] = half
			}
		}
		if len(stale) > 0 {
			steps = append(steps, workload.Step{
				Name: "updating files of container " + c.Name, Do: func(ctx context.Context) error { return i.exchange(ctx, spec, c, stale) },
			})
		}
	})
	return steps, err
}

// exchange puts other contents into volumes which a running container uses, and tells it. What
// is cut off is done once more: the container may be told twice, but not never.
func (i *instance) exchange(ctx context.Context, spec *container.Spec, c *container.Container, stale map[int]string) error {
	i.log.Info("updating files", "container", c.Name)
	return i.carry(ctx, spec, func(carrier string) error {
		numbers := slices.Sorted(maps.Keys(stale))
		for _, n := range numbers {
			if err := i.runtime.Unpack(ctx, carrier, carried(n), next(&spec.Files[n], stale[n])); err != nil {
				return err
			}
		}
		for _, n := range numbers {
			if signal := spec.Files[n].Signal; signal != 0 {
				if err := i.runtime.Signal(ctx, c.ID, signal); err != nil {
					return err
				}
			}
		}
		for _, n := range numbers {
			if err := i.runtime.Unpack(ctx, carrier, carried(n), rest(&spec.Files[n], stale[n])); err != nil {
				return err
			}
		}
		return nil
	})
}

// whole is the archive of a volume that nothing uses.
func whole(set *container.FileSet) []byte {
	p := newPacker()
	p.half(firstHalf, set)
	p.half(secondHalf, set)
	p.link(current, firstHalf)
	p.names(set)
	p.told(set, firstHalf)
	return p.bytes()
}

// next is the archive that brings other contents into use.
func next(set *container.FileSet, inUse string) []byte {
	p := newPacker()
	p.half(other(inUse), set)
	p.link(current, other(inUse))
	p.names(set)
	return p.bytes()
}

// rest is the archive that replaces what was in use before: it may be a Secret that was
// withdrawn.
func rest(set *container.FileSet, before string) []byte {
	p := newPacker()
	p.half(other(other(before)), set)
	p.told(set, other(before))
	return p.bytes()
}

func other(half string) string {
	if half == secondHalf {
		return firstHalf
	}
	return secondHalf
}

// packer makes an archive. What it writes to fails never.
type packer struct {
	buffer bytes.Buffer
	tar    *tar.Writer
	dirs   map[string]bool
	now    time.Time
}

func newPacker() *packer {
	p := &packer{dirs: map[string]bool{}, now: time.Now()}
	p.tar = tar.NewWriter(&p.buffer)
	return p
}

func (p *packer) bytes() []byte {
	_ = p.tar.Close()
	return p.buffer.Bytes()
}

func (p *packer) half(half string, set *container.FileSet) {
	p.dir(half)
	for _, f := range set.Files {
		at := path.Join(half, f.Path)
		p.dir(path.Dir(at))
		p.file(at, f.Content, f.Permissions)
	}
}

// dir adds a directory and those above it.
func (p *packer) dir(name string) {
	if name == "." || p.dirs[name] {
		return
	}
	p.dir(path.Dir(name))
	p.dirs[name] = true
	_ = p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: p.now})
}

func (p *packer) file(name string, content []byte, r container.Permissions) {
	_ = p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: int64(r.Mode), Uid: r.UID, Gid: r.GID, ModTime: p.now})
	_, _ = p.tar.Write(content)
}

func (p *packer) link(name, target string) {
	_ = p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: p.now})
}

// names adds a link for the first part of each path.
func (p *packer) names(set *container.FileSet) {
	added := map[string]bool{}
	for _, f := range set.Files {
		if first, _, _ := strings.Cut(f.Path, "/"); !added[first] {
			added[first] = true
			p.link(first, path.Join(current, first))
		}
	}
}

func (p *packer) told(set *container.FileSet, half string) {
	p.file(told, []byte(set.Mark+" "+half), container.Permissions{Mode: 0o444})
}
