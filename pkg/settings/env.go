package settings

import (
	"fmt"
	"slices"
	"strings"
)

// Env is an environment, as os.Environ returns it.
type Env []string

// Get returns a variable, empty when it is not set. White space around it is no
// part of it: a file of variables from Windows has a carriage return there.
func (e Env) Get(name string) string {
	for _, variable := range e {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// names are those of the variables.
func (e Env) names() []string {
	all := make([]string, 0, len(e))
	for _, variable := range e {
		name, _, _ := strings.Cut(variable, "=")
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// fill sets what the environment names. An empty variable is none.
func (e Env) fill(p Program, all []Setting) error {
	known := []string{p.envFile()}
	for _, s := range all {
		if s.Env == "" {
			continue
		}
		known = append(known, s.Env)
		text := e.Get(s.Env)
		if text == "" {
			continue
		}
		if err := s.parse(text); err != nil {
			return fmt.Errorf("environment variable %s: %w", s.Env, err)
		}
	}
	err := e.check(p.Prefix, known)
	if err != nil && p.Warn != nil {
		p.Warn(err.Error())
		return nil
	}
	return err
}

// check returns an error for a variable with the prefix that nobody reads.
func (e Env) check(prefix string, known []string) error {
	names := e.names()
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !slices.Contains(known, name) && !ofService(name, names) {
			return fmt.Errorf("unknown environment variable %s: unset it; known are %s", show(name), strings.Join(known, ", "))
		}
	}
	return nil
}

// ofService reports whether Kubernetes set a variable: a pod has some for each
// Service of its namespace, FLEET_SERVER_SERVICE_HOST and FLEET_SERVER_PORT for
// one that is called fleet-server.
func ofService(name string, names []string) bool {
	for _, host := range names {
		service, ok := strings.CutSuffix(host, "_SERVICE_HOST")
		if ok && (strings.HasPrefix(name, service+"_SERVICE_") || name == service+"_PORT" || strings.HasPrefix(name, service+"_PORT_")) {
			return true
		}
	}
	return false
}

// Table lists the variables and the keys that they win over, a line each.
func Table(config any) string {
	var b strings.Builder
	for _, s := range Of(config) {
		if s.Env != "" {
			fmt.Fprintf(&b, "  %-34s %s\n", s.Env, s.Key)
		}
	}
	return b.String()
}
