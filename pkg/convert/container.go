package convert

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"

	"fleet.nationtech.io/fleet/pkg/score"
)

// container translates one container of a project.
type container struct {
	*project
	group *group
	at    []string
	name  string
	out   score.Service
}

// lost reports a field of the container.
func (c *container) lost(why, instead string, path ...string) {
	c.lose(below(c.at, path...), why, instead)
}

// spec translates what containers of all kinds have.
func (c *container) spec(in *types.ContainerSpec) {
	c.imageOf(take(&in.Image))
	c.out.Command, c.out.Args = c.words("entrypoint", take(&in.Entrypoint)), c.words("command", take(&in.Command))
	c.environment(take(&in.Environment))
	take(&in.EnvFiles)     // compose-go read them into the environment
	take(&in.LabelFiles)   // and these into the labels
	take(&in.CustomLabels) // which only docker compose sets
	c.volumes(in)
	c.security(in)
	c.resources(in)
	c.devices(in)
	c.networks(in)
	c.pull(take(&in.PullPolicy))
	c.logging(in)
	c.balena(in.Labels)
	c.out.Labels = c.metadata("labels", map[string]string(take(&in.Labels)), "app", func(s *score.Service, m map[string]string) { s.Labels = m })
	c.out.Annotations = c.metadata("annotations", map[string]string(take(&in.Annotations)), "example.com/note", func(s *score.Service, m map[string]string) { s.Annotations = m })
	c.end(in)
	c.options(in)
}

func (c *container) imageOf(image string) {
	if image == "" {
		c.out.Image = "localhost/" + c.project.name + "-" + label(c.name) + ":latest"
		c.lost("it names no image, so "+c.out.Image+" stands for it", "give the image that devices pull")
		return
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		c.out.Image = "localhost/" + c.project.name + "-" + label(c.name) + ":latest"
		c.lost("it is no reference of an image, so "+c.out.Image+" stands for it", "give a full name such as docker.io/library/nginx:1.29", "image")
		return
	}
	c.out.Image = named.String()
	if c.refused(func(s *score.Service) { s.Image = named.String() }) {
		c.out.Image = "localhost/" + c.project.name + "-" + label(c.name) + ":latest"
		c.lost("fleet does not take this name of an image, so "+c.out.Image+" stands for it", "give a full name such as docker.io/library/nginx:1.29", "image")
	}
}

// words takes a command: an empty one that is there would clear that of the image.
func (c *container) words(field string, words types.ShellCommand) []string {
	if words != nil && len(words) == 0 {
		c.lost("PodmanV0 cannot clear the "+field+" of an image", "give the words that are to run", field)
	}
	return literals(words)
}

func (c *container) environment(env types.MappingWithEquals) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := env[name]
		switch {
		case value == nil:
			c.lost("the variable has no value here", "set it when you convert, or in an env file", "environment", name)
		case c.refused(func(s *score.Service) { s.Env = []score.EnvVar{{Name: name, Value: literal(*value)}} }):
			c.lost("it is not the name of an environment variable, or its value has a NUL byte", "rename it", "environment", name)
		default:
			c.out.Env = append(c.out.Env, score.EnvVar{Name: name, Value: literal(*value)})
		}
	}
}

var pullPolicies = map[string]score.PullPolicy{
	"": "", types.PullPolicyMissing: "", types.PullPolicyIfNotPresent: "", types.PullPolicyAlways: score.PullAlways, types.PullPolicyNever: score.PullNever,
}

func (c *container) pull(policy string) {
	known := false
	if c.out.PullPolicy, known = pullPolicies[policy]; known {
		return
	}
	if policy == types.PullPolicyBuild {
		c.lost("fleet builds no images", "build the image and push it: fleet-server image push", "pull_policy")
		return
	}
	c.out.PullPolicy = score.PullAlways
	c.lost("fleet asks the registry at each change and once an hour instead (Always)", "leave the policy out to pull once", "pull_policy")
}

func (c *container) logging(in *types.ContainerSpec) {
	if in.LogDriver != "" || len(in.LogOpt) > 0 {
		return
	}
	l := in.Logging
	if l == nil {
		return
	}
	switch l.Driver {
	case "", "json-file", "local", "k8s-file":
		l.Driver = ""
		size, given := l.Options["max-size"]
		if n := bytesOf(size); given && n > 0 && !c.refused(func(s *score.Service) { s.Log.MaxSize = quantity(n) }) {
			c.out.Log.MaxSize = quantity(n)
			delete(l.Options, "max-size")
		}
	}
}

// metadata takes labels and annotations that podman may have.
func (c *container) metadata(field string, in map[string]string, example string, set func(*score.Service, map[string]string)) map[string]string {
	var out map[string]string
	for _, name := range slices.Sorted(maps.Keys(in)) {
		value := literal(in[name])
		if strings.HasPrefix(name, "com.docker.compose.") {
			continue
		}
		if c.refused(func(s *score.Service) { set(s, map[string]string{name: value}) }) {
			c.lost("fleet does not take this key or value", "rename it to something like "+example, field, name)
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
	}
	return out
}

// end translates how the container ends.
func (c *container) end(in *types.ContainerSpec) {
	if grace := take(&in.StopGracePeriod); grace != nil {
		seconds, whole := wholeSeconds(*grace)
		if !whole || c.refused(func(s *score.Service) { s.TerminationGracePeriodSeconds = &seconds }) {
			seconds = max(0, min(seconds, 3600))
			c.lost("it is whole seconds up to an hour, so it is "+strconv.Itoa(seconds)+" s", "give whole seconds", "stop_grace_period")
		}
		c.out.TerminationGracePeriodSeconds = &seconds
	}
	signal := take(&in.StopSignal)
	if signal == "" {
		return
	}
	name := signal
	if n, err := strconv.Atoi(signal); err == nil {
		name = signalNames[n]
	} else if !strings.HasPrefix(signal, "SIG") {
		name = "SIG" + signal
	}
	if name == "" || c.refused(func(s *score.Service) { s.StopSignal = name }) {
		c.lost("fleet does not know this signal", "use one such as SIGTERM or SIGINT", "stop_signal")
		return
	}
	c.out.StopSignal = name
}

var signalNames = map[int]string{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 6: "SIGABRT", 9: "SIGKILL", 10: "SIGUSR1", 12: "SIGUSR2", 14: "SIGALRM", 15: "SIGTERM", 28: "SIGWINCH", 30: "SIGPWR"}

// options translates what is left and simple.
func (c *container) options(in *types.ContainerSpec) {
	if dir := in.WorkingDir; dir != "" && !c.refused(func(s *score.Service) { s.WorkingDir = dir }) {
		c.out.WorkingDir = take(&in.WorkingDir)
	}
	if name := in.Hostname; name != "" && !c.refused(func(s *score.Service) { s.Hostname = name }) {
		c.out.Hostname = take(&in.Hostname)
	}
	if init := take(&in.Init); init != nil {
		c.out.Init = *init
	}
	if size := take(&in.ShmSize); size != 0 {
		if c.refused(func(s *score.Service) { s.ShmSize = quantity(int64(size)) }) {
			c.lost("/dev/shm has at least 4Ki", "give more, or leave it out", "shm_size")
		} else {
			c.out.ShmSize = quantity(int64(size))
		}
	}
	c.ulimits(in)
	if n := int(in.OomScoreAdj); n > 0 && n <= 1000 {
		take(&in.OomScoreAdj)
		c.out.OOMScoreAdj = &n
	}
	if in.Pid == "host" {
		c.out.HostPID = take(&in.Pid) != ""
		if c.out.Init {
			c.out.Init = false
			c.lost("with the processes of the device (pid: host) the first process is the device's", "leave init out", "init")
		}
	}
	if in.Ipc == "host" {
		c.out.HostIPC = take(&in.Ipc) != ""
		if take(&c.out.ShmSize) != "" {
			c.lost("with ipc: host the container has the device's /dev/shm", "leave shm_size out", "shm_size")
		}
	}
	if in.Ipc == "private" || in.Ipc == "shareable" {
		take(&in.Ipc) // each container has its own, which others may not join
	}
}

func (c *container) ulimits(in *types.ContainerSpec) {
	for _, name := range slices.Sorted(maps.Keys(in.Ulimits)) {
		limit := in.Ulimits[name]
		if limit == nil {
			continue
		}
		u := score.Ulimit{Name: name, Hard: limit.Hard}
		if limit.Single != 0 {
			u.Hard = limit.Single
		} else if limit.Soft != limit.Hard {
			soft := limit.Soft
			u.Soft = &soft
		}
		if c.refused(func(s *score.Service) { s.Ulimits = []score.Ulimit{u} }) {
			continue // it is left and reported
		}
		c.out.Ulimits = append(c.out.Ulimits, u)
		extensions := limit.Extensions
		if delete(in.Ulimits, name); len(extensions) > 0 {
			c.lost(unknown.why, unknown.instead, "ulimits", name)
		}
	}
}

// refused reports whether the score would not be valid with a service that has what set sets.
func (c *container) refused(set func(*score.Service)) bool {
	s := score.Service{Name: "x", Image: "localhost/x:1"}
	set(&s)
	return !valid(&score.PodmanV0{Services: []score.Service{s}})
}
