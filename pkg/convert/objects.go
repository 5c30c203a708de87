package convert

import (
	"cmp"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// file mounts a config or a secret of the project.
func (c *container) file(f *types.FileReferenceConfig, kind string, i int) {
	source := take(&f.Source)
	target := cmp.Or(take(&f.Target), source)
	if kind == "secrets" && !path.IsAbs(target) {
		target = "/run/secrets/" + target
	} else if !path.IsAbs(target) {
		target = "/" + target
	}
	key := key(source)
	files := score.SecretFiles{Items: []score.FileItem{{Key: key, Path: key}}}
	files.UID, files.GID = number16(&f.UID), number16(&f.GID)
	if mode := f.Mode; mode != nil && *mode >= 0 && *mode <= 0o777 {
		n := int(*take(&f.Mode))
		files.DefaultMode = &n
	}
	v := score.Volume{SubPath: key, MountPath: path.Clean(target)}
	if kind == "secrets" {
		files.SecretName = c.secretName(source)
		v.Secret = &files
	} else {
		v.ConfigMap = &score.ConfigMapFiles{Name: c.config(source, key), Items: files.Items, DefaultMode: files.DefaultMode, UID: files.UID, GID: files.GID}
	}
	trial := append(slices.Clone(c.out.Volumes), v)
	if c.refused(func(s *score.Service) { s.Volumes = trial }) {
		c.lost("fleet does not mount it there", "give an absolute path at which nothing else is", kind, item(i))
		return
	}
	c.out.Volumes = trial
}

// number16 takes a number of a user or group.
func number16(text *string) int {
	if *text == "" {
		return 0
	}
	id, err := strconv.Atoi(*text)
	if err != nil || id < 0 || id > 65535 {
		return 0 // left and reported
	}
	*text = ""
	return id
}

// secretName is that of the Secret that stands for a secret of the project.
func (p *project) secretName(source string) string {
	if s := p.in.Secrets[source]; bool(s.External) && s.Name != "" {
		return label(s.Name)
	}
	return nameOf(p.secrets, source, p.name+"-"+source)
}

// config is the name of the ConfigMap that stands for a config of the project.
func (c *container) config(source, key string) string {
	in := c.in.Configs[source]
	if in.External {
		return label(cmp.Or(in.Name, source))
	}
	var f File
	content, ok := in.Content, in.Content != "" || in.Environment != ""
	if !ok {
		f, ok = c.files.Text(in.File)
		content = f.Content
	}
	if !ok || len(key)+len(content) > MaxConfigMap {
		return label(c.project.name + "-" + source) // objects reports it
	}
	_, made := c.keys["configs/"+source]
	name := c.configMap("configs/"+source, map[string]string{key: content})
	if !made && f.sensitive() {
		c.lose([]string{"configs", source}, "ConfigMap "+name+" has the content of "+path.Base(in.File)+", for everybody who may read ConfigMaps",
			"if passwords or keys are in it, make it a secret of the project")
	}
	return name
}

// objects reports what the parts of the project besides services lose.
func (p *project) objects() {
	p.leftVolumes()
	p.leftNetworks()
	for _, name := range slices.Sorted(maps.Keys(p.in.Secrets)) {
		s := types.FileObjectConfig(p.in.Secrets[name])
		secret := p.secretName(name)
		from := "--from-file=" + key(name) + "=" + cmp.Or(path.Base(s.File), "FILE")
		if s.File == "" {
			from = "--from-file=" + key(name) + "=FILE"
		}
		p.lose([]string{"secrets", name}, "secrets are not printed", "kubectl create secret generic "+secret+" "+from)
		p.leftObject([]string{"secrets", name}, s)
	}
	for _, name := range slices.Sorted(maps.Keys(p.in.Configs)) {
		s := types.FileObjectConfig(p.in.Configs[name])
		if _, made := p.keys["configs/"+name]; !made {
			config := label(p.name + "-" + name)
			if bool(s.External) {
				config = label(cmp.Or(s.Name, name))
			}
			p.lose([]string{"configs", name}, "its content is not here, is no text, is over 128 KiB, or no service uses it", "kubectl create configmap "+config+" --from-file="+key(name)+"=FILE")
		}
		p.leftObject([]string{"configs", name}, s)
	}
	for _, name := range slices.Sorted(maps.Keys(p.in.Models)) {
		p.lose([]string{"models", name}, "fleet runs no models", "write a service that serves it")
	}
	for _, name := range slices.Sorted(maps.Keys(p.in.DisabledServices)) {
		p.lose([]string{"services", name}, "its profile is not active", "convert with --profile "+strings.Join(p.in.DisabledServices[name].Profiles, " or "))
	}
	for _, name := range slices.Sorted(maps.Keys(p.in.DisabledJobs)) {
		p.lose([]string{"jobs", name}, "its profile is not active", "convert with --profile "+strings.Join(p.in.DisabledJobs[name].Profiles, " or "))
	}
}

func (p *project) leftObject(at []string, o types.FileObjectConfig) {
	rest := struct {
		Labels         types.Labels      `yaml:"labels"`
		Driver         string            `yaml:"driver"`
		DriverOpts     map[string]string `yaml:"driver_opts"`
		TemplateDriver string            `yaml:"template_driver"`
		Extensions     types.Extensions  `yaml:"#extensions,inline"`
	}{o.Labels, o.Driver, o.DriverOpts, o.TemplateDriver, o.Extensions}
	p.leftovers(at, reflect.ValueOf(rest), "yaml", composeAdvices)
}

func (p *project) leftVolumes() {
	for _, name := range slices.Sorted(maps.Keys(p.in.Volumes)) {
		v, at := p.in.Volumes[name], []string{"volumes", name}
		if v.Driver == "local" {
			take(&v.Driver)
		}
		if v.Name == p.in.Name+"_"+name {
			take(&v.Name)
		}
		if take(&v.External) {
			p.lose(at, "a volume belongs to one Deployment, and begins empty", "use a directory of the device (hostPath) for data that is there already")
			take(&v.Name)
		}
		take(&v.CustomLabels)
		p.leftovers(at, reflect.ValueOf(v), "yaml", volumeAdvices)
	}
}

// connected are the names of the networks that anything is in.
func connected(in *types.Project) map[string]bool {
	names := map[string]bool{}
	for _, s := range in.Services {
		for name := range s.Networks {
			names[name] = true
		}
	}
	for _, job := range in.Jobs {
		for name := range job.Networks {
			names[name] = true
		}
	}
	return names
}

func (p *project) leftNetworks() {
	used := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(p.in.Networks)) {
		n, at := p.in.Networks[name], []string{"networks", name}
		if !p.connected[name] {
			continue // docker makes none of it, either
		}
		if n.Ipam.Driver == "default" {
			take(&n.Ipam.Driver)
		}
		if n.Driver == "bridge" || n.Driver == "default" {
			take(&n.Driver)
		}
		if take(&n.Attachable) { // every network of fleet that has a name is
			n.Attachable = false
		}
		if n.EnableIPv4 != nil && *n.EnableIPv4 {
			take(&n.EnableIPv4)
		}
		if six := n.EnableIPv6; six != nil {
			take(&n.EnableIPv6)
			for _, g := range p.groups {
				if *six && g.mode == "" {
					g.network().IPv6 = true
				}
			}
		}
		external := bool(take(&n.External))
		if n.Name == p.in.Name+"_"+name || external {
			take(&n.Name)
		}
		take(&n.CustomLabels)
		if used["own"] || used["external"] || external && used["any"] {
			p.lose(at, "the services of a Deployment are in one network and reach each other", "write Deployments that share a network by name where that must not be")
		} else if external {
			p.lose(at, "only Deployments of the namespace that give network.name "+label(p.in.Networks[name].Name)+" are in it", "give the others the same name")
		}
		used["any"], used["external"], used["own"] = true, used["external"] || external, used["own"] || !external
		p.leftovers(at, reflect.ValueOf(n), "yaml", networkAdvices)
	}
}
