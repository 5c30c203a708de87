package plan

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// dockerConfigKey is the key of a Secret of type kubernetes.io/dockerconfigjson.
const dockerConfigKey = ".dockerconfigjson"

// dockerHub are the names of one registry.
var dockerHub = map[string]bool{"docker.io": true, "index.docker.io": true, "registry-1.docker.io": true}

// logins reads the logins of Secrets, in their order. Errors never repeat their content.
func logins(names []string, c workload.Contents) (all []container.Login, err error) {
	for _, name := range names {
		content, err := c.Key(name, dockerConfigKey)
		if err != nil {
			return nil, fmt.Errorf("imagePullSecrets: %w: make it with kubectl create secret docker-registry", err)
		}
		of, ok := parseDockerConfig(content)
		if !ok {
			return nil, fmt.Errorf("imagePullSecrets: key %s of the Secret %q is no configuration of registries: make it with kubectl create secret docker-registry", dockerConfigKey, name)
		}
		all = append(all, of...)
	}
	return all, nil
}

func parseDockerConfig(content []byte) (all []container.Login, ok bool) {
	var config struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if json.Unmarshal(content, &config) != nil {
		return nil, false
	}
	for registry, auth := range config.Auths {
		login := container.Login{Registry: cleanRegistry(registry), User: auth.Username, Password: auth.Password}
		if auth.Auth != "" {
			pair, err := base64.StdEncoding.DecodeString(auth.Auth)
			var colon bool
			if login.User, login.Password, colon = strings.Cut(string(pair), ":"); err != nil || !colon {
				return nil, false
			}
		}
		all = append(all, login)
	}
	return all, true
}

// cleanRegistry is what stands before the names of images: HOST[:PORT][/PATH].
func cleanRegistry(registry string) string {
	if u, err := url.Parse(registry); err == nil && u.Host != "" {
		registry = u.Host + u.Path
	}
	registry = strings.TrimSuffix(registry, "/")
	host, rest, _ := strings.Cut(registry, "/")
	if !dockerHub[host] {
		return registry
	}
	if rest == "" || rest == "v1" || rest == "v2" { // what docker login writes
		return "docker.io"
	}
	return "docker.io/" + rest
}

// LoginFor returns the login of the workload for an image that names most of its name, or nil.
func (w *Workload) LoginFor(image string) (best *container.Login) {
	for i := range w.Logins {
		l := &w.Logins[i]
		if strings.HasPrefix(image, l.Registry+"/") && (best == nil || len(l.Registry) > len(best.Registry)) {
			best = l
		}
	}
	return best
}
