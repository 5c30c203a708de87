package podman

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containers/podman/v5/libpod/define"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// listTimeout bounds a look at all containers.
	listTimeout = 2 * time.Minute
	// maxKept bounds what is kept of all containers, and maxKeptOf what is kept of
	// those of one Deployment, in bytes of memory.
	maxKept   = 8 << 20
	maxKeptOf = 512 << 10
	// maxLabel bounds a label of the agent's, maxName the name of a container,
	// maxImage that of an image, in bytes.
	maxLabel, maxName, maxImage = 256, 256, 1024
	// maxDigest is the length of "sha512:" and its digits.
	maxDigest = 135
	// maxGrace bounds how long a container may have to end, whoever made it.
	maxGrace = time.Hour
	// unknownGrace is how long one has of which that is not known, in seconds.
	unknownGrace = 30
)

// List implements container.Runtime. Each container is inspected, since
// podman 4.3 lists neither the restart count nor exact times.
func (c *Client) List(ctx context.Context, ref wire.DeploymentRef) ([]container.Container, error) {
	if list, ok := c.scopes.recall(ref); ok {
		return c.severed(ctx, list)
	}
	turn := c.scopes.begin()
	query := filters(labelFilter(ref))
	query.Set("all", "true")
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var found list[listed]
	if err := c.call(ctx, request{method: http.MethodGet, path: "/containers/json", query: query, limit: maxList}, &found); err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	containers := make([]container.Container, 0, len(found))
	size, most := 0, maxKept
	if ref != (wire.DeploymentRef{}) {
		most = maxKeptOf
	}
	for _, f := range found {
		var data inspection
		inspect := request{method: http.MethodGet, path: "/containers/%s/json", values: []string{string(f.ID)}, limit: maxInspection}
		err := c.call(ctx, inspect, &data)
		if errors.Is(err, container.ErrNotFound) {
			continue // removed since it was listed
		}
		answer, refused := errors.AsType[*refusal](err)
		refused = refused && answer.status == http.StatusInternalServerError || errors.Is(err, container.ErrDamaged)
		if err != nil && !refused {
			return nil, fmt.Errorf("inspecting container %.12s: %w", f.ID, err)
		}
		if refused { // the others are as they are, whatever podman lost of this one
			data = f.inspection()
		}
		observed, ok := data.convert()
		if !ok || ref != (wire.DeploymentRef{}) && observed.Ref != ref {
			continue
		}
		if refused {
			observed.Torn = torn(&observed, err)
		} else {
			observed.Unwatched = !observed.Gone && c.monitors.lost(cgroups, &data)
			c.scopes.follow(&data, observed.Ref, observed.State == container.StateRunning && !observed.Gone)
		}
		if size += data.size(); size > most {
			return nil, fmt.Errorf("listing containers: %w", unavailable(c.find(), fmt.Errorf("%w: containers that take more than %d bytes", errProtocol, most)))
		}
		containers = append(containers, observed)
	}
	slices.SortFunc(containers, func(a, b container.Container) int { return cmp.Compare(a.Name, b.Name) })
	if ref == (wire.DeploymentRef{}) {
		c.monitors.keep(containers)
		c.scopes.keep(containers)
		c.scopes.remember(turn, containers)
	}
	return c.severed(ctx, slices.Clone(containers))
}

// listed is what podman lists of a container. That comes from its database alone, and is
// known of one that it cannot inspect, too.
type listed struct {
	ID        id `json:"Id"`
	Names     list[string]
	Labels    labels
	Image     string
	State     string
	Pid       int32
	ExitCode  int32
	StartedAt int64 // in seconds since 1970, as is ExitedAt
	ExitedAt  int64
	Created   time.Time
}

// inspection is what is known of a container that podman refuses to inspect.
func (l *listed) inspection() (i inspection) {
	i.ID, i.ImageName, i.Created = l.ID, l.Image, l.Created
	if len(l.Names) > 0 {
		i.Name = l.Names[0]
	}
	i.Config.Labels, i.Config.StopTimeout = l.Labels, unknownGrace
	i.State.Status, i.State.Pid, i.State.ExitCode, i.State.StartedAt = l.State, l.Pid, l.ExitCode, secondsOf(l.StartedAt)
	if ended := container.State(l.State); ended == container.StateExited || ended == container.StateStopped {
		i.State.FinishedAt = secondsOf(l.ExitedAt)
	}
	return i
}

// torn reports whether a container that podman refuses to inspect can be started no more. What
// ended by itself may be done for good, and is left alone.
func torn(c *container.Container, refusal error) bool {
	up := c.State == container.StateRunning || c.State == container.StatePaused
	return !up && c.Finished.IsZero() && ofStorage(refusal)
}

// secondsOf is a time in seconds since 1970, or none.
func secondsOf(seconds int64) time.Time {
	if seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// labelFilter selects the labelled containers or volumes of one Deployment, or
// all of them when ref is zero.
func labelFilter(ref wire.DeploymentRef) map[string][]string {
	label := container.LabelDeployment
	if ref != (wire.DeploymentRef{}) {
		label += "=" + container.LabelValue(ref)
	}
	return map[string][]string{"label": {label}}
}

// inspection is what podman says of one container, as far as the agent wants to
// know.
type inspection struct {
	ID           id `json:"Id"`
	Name         string
	ImageName    string
	ImageDigest  string
	Created      time.Time
	RestartCount int32
	Config       struct {
		Labels      labels
		StopTimeout uint32
	}
	State struct {
		Status                string
		Pid                   int32
		ExitCode              int32
		OOMKilled             bool
		CgroupPath            string
		StartedAt, FinishedAt time.Time
	}
	HostConfig struct {
		Cgroups       string
		RestartPolicy struct{ Name string }
	}
	Mounts list[mount]
}

type mount struct {
	Type, Name, Source, Destination string
	RW                              bool
}

// convert reports false for a container whose labels the agent did not write.
func (i *inspection) convert() (container.Container, bool) {
	ref, ok := container.ParseLabelValue(i.Config.Labels[container.LabelDeployment])
	return container.Container{
		ID:             string(i.ID),
		Name:           clip(i.Name, maxName),
		Ref:            ref,
		Service:        i.Config.Labels[container.LabelService],
		Hash:           i.Config.Labels[container.LabelHash],
		Image:          clip(i.ImageName, maxImage),
		Digest:         clip(i.ImageDigest, maxDigest),
		Network:        i.Config.Labels[container.LabelNetwork],
		Mounts:         i.mounts(define.TypeBind),
		Volumes:        i.mounts(define.TypeVolume),
		Grace:          min(time.Duration(i.Config.StopTimeout)*time.Second, maxGrace),
		HealthCheck:    probeOf(i.Config.Labels[container.LabelHealthCheck]),
		PreStop:        container.ParseHook(i.Config.Labels[container.LabelPreStop]),
		PID:            int(max(i.State.Pid, 0)),
		State:          container.State(clip(i.State.Status, maxShort)),
		Gone:           i.gone(),
		ExitCode:       int(i.State.ExitCode),
		OutOfMemory:    i.State.OOMKilled,
		PolicyRestarts: int(i.RestartCount),
		Policy:         policy(i.HostConfig.RestartPolicy.Name),
		Created:        reportable(i.Created),
		Started:        reportable(i.State.StartedAt),
		Finished:       reportable(i.State.FinishedAt),
	}, ok
}

// gone reports whether podman believes that a container runs which has no process. To
// name the control group podman asks the kernel about the process: a container that has
// one by its configuration, and whose group podman cannot name, is not there.
func (i *inspection) gone() bool {
	if i.State.Status != define.ContainerStateRunning.String() || i.HostConfig.Cgroups != "default" {
		return false
	}
	return i.State.CgroupPath == "" || !alive(cgroups, string(i.ID), i.State.CgroupPath)
}

// policy is a restart policy, of which podman says "" or "no" for none.
func policy(name string) container.Restart {
	if name == "" {
		return container.RestartNever
	}
	return container.Restart(clip(name, maxShort))
}

// mounts lists those of one type.
func (i *inspection) mounts(typ string) []container.Mount {
	var mounts []container.Mount
	for _, m := range i.Mounts {
		mount := container.Mount{Volume: m.Name, Path: m.Destination, ReadOnly: !m.RW}
		if m.Type == define.TypeBind {
			mount.Volume, mount.HostPath = "", m.Source
		}
		if m.Type == typ {
			mounts = append(mounts, mount)
		}
	}
	return mounts
}

// size is about how many bytes of memory the container takes.
func (i *inspection) size() int {
	const fixed, each = 512, 64
	total := len(i.Config.Labels[container.LabelHealthCheck]) + len(i.Config.Labels[container.LabelPreStop]) + fixed + min(len(i.Name), maxName) + min(len(i.ImageName), maxImage)
	for _, m := range i.Mounts {
		total += each + len(m.Name) + len(m.Source) + len(m.Destination)
	}
	return total
}

// reportable is a time in UTC that JSON can express, or else none.
func reportable(t time.Time) time.Time {
	t = t.UTC()
	if year := t.Year(); year < 1 || year > 9999 {
		return time.Time{}
	}
	return t
}

// id is the id of a container.
type id string

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *id) UnmarshalText(text []byte) error {
	if len(text) == 0 || len(text) > maxShort || len(bytes.Trim(text, "0123456789abcdef")) > 0 {
		return fmt.Errorf("%w: the id of a container is none", errProtocol)
	}
	*i = id(text)
	return nil
}

// Create implements container.Runtime. A power cut may leave a name in podman's storage that
// podman itself gives to nobody. It is the agent's alone, so it is freed.
func (c *Client) Create(ctx context.Context, spec *container.Spec) (string, error) {
	id, err := c.create(ctx, spec)
	if holder := nameHolder(err); holder != "" {
		freed, freeErr := c.free(ctx, spec.Name(), holder)
		switch {
		case freeErr != nil:
			err = freeErr
		case freed:
			id, err = c.create(ctx, spec)
		}
	}
	if err != nil {
		return "", fmt.Errorf("creating container %s: %w", spec.Name(), err)
	}
	return id, nil
}

var inUseBy = regexp.MustCompile(`already in use by ([0-9a-f]{1,64})\b`)

// nameHolder returns the id of the container that has a name in podman's storage, or "" when
// that is not what an error says.
func nameHolder(err error) string {
	if err == nil {
		return ""
	}
	if found := inUseBy.FindStringSubmatch(err.Error()); found != nil {
		return found[1]
	}
	return ""
}

// free takes a name from a container that has it in podman's storage alone. It returns false
// when podman knows the container by that name, too.
func (c *Client) free(ctx context.Context, name, holder string) (bool, error) {
	var data inspection
	err := c.call(ctx, request{method: http.MethodGet, path: "/containers/%s/json", values: []string{holder}, limit: maxInspection}, &data)
	switch {
	case errors.Is(err, container.ErrNotFound): // podman knows nothing of it, and lists it nowhere
		return true, c.Clear(ctx, name)
	case err != nil:
		return false, fmt.Errorf("inspecting container %.12s: %w", holder, err)
	case data.Name == name:
		return false, nil
	}
	// podman changes a name in its database first. What came between that and the storage,
	// which still has the old name, does not matter when it is told the new one again.
	return true, c.Rename(ctx, holder, data.Name)
}

func (c *Client) create(ctx context.Context, spec *container.Spec) (string, error) {
	var reply struct {
		ID id `json:"Id"`
	}
	gateways, err := c.gateways(ctx, spec)
	if err != nil {
		return "", err
	}
	err = c.call(ctx, request{method: http.MethodPost, path: "/containers/create", body: generate(spec, gateways)}, &reply)
	if err == nil {
		c.scopes.made(string(reply.ID), spec.Ref)
	}
	return string(reply.ID), err
}

// Init implements container.Runtime.
func (c *Client) Init(ctx context.Context, id string) error {
	if err := c.call(ctx, request{method: http.MethodPost, path: "/containers/%s/init", values: []string{id}}, nil); err != nil {
		return fmt.Errorf("preparing container %.12s: %w", id, err)
	}
	return nil
}

// Rename implements container.Runtime.
func (c *Client) Rename(ctx context.Context, id, name string) error {
	query := url.Values{"name": {name}}
	if err := c.call(ctx, request{method: http.MethodPost, path: "/containers/%s/rename", values: []string{id}, query: query}, nil); err != nil {
		return fmt.Errorf("renaming container %.12s to %s: %w", id, name, err)
	}
	return nil
}

// Start implements container.Runtime.
func (c *Client) Start(ctx context.Context, id string) error {
	if err := c.call(ctx, request{method: http.MethodPost, path: "/containers/%s/start", values: []string{id}}, nil); err != nil {
		return fmt.Errorf("starting container %.12s: %w", id, err)
	}
	return nil
}

// Stop implements container.Runtime.
func (c *Client) Stop(ctx context.Context, id string, grace time.Duration) error {
	err := c.call(ctx, request{
		method: http.MethodPost, path: "/containers/%s/stop", values: []string{id}, more: grace,
		query: url.Values{"timeout": {strconv.FormatInt(int64(grace.Seconds()), 10)}},
	}, nil)
	if err != nil && !errors.Is(err, container.ErrNotFound) && !notStarted(err) {
		return fmt.Errorf("stopping container %.12s: %w", id, err)
	}
	return nil
}

// notStarted reports whether podman refused to stop a container because it
// never ran. The type of the error does not cross the socket.
func notStarted(err error) bool {
	return strings.Contains(err.Error(), define.ErrCtrStateInvalid.Error())
}

// Remove implements container.Runtime.
func (c *Client) Remove(ctx context.Context, id string) error {
	if err := c.remove(ctx, id, url.Values{}); err != nil {
		return fmt.Errorf("removing container %.12s: %w", id, err)
	}
	return nil
}

// Clear implements container.Runtime.
func (c *Client) Clear(ctx context.Context, id string) error {
	if err := c.remove(ctx, id, url.Values{"force": {"true"}, "timeout": {"0"}}); err != nil {
		return fmt.Errorf("clearing container %.12s: %w", id, err)
	}
	return nil
}

// remove removes a container; one that is gone is no error.
func (c *Client) remove(ctx context.Context, name string, query url.Values) error {
	query.Set("ignore", "true")
	var reports list[struct{ Err any }]
	err := c.call(ctx, request{method: http.MethodDelete, path: "/containers/%s", values: []string{name}, query: query}, &reports)
	for _, r := range reports {
		if err == nil && r.Err != nil {
			err = errors.New(clip(fmt.Sprint(r.Err), maxRefusal))
		}
	}
	if errors.Is(err, container.ErrNotFound) {
		return nil
	}
	return err
}
