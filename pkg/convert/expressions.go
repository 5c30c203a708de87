package convert

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

// literal is a text as a score writes it, in which "${name." begins an expression.
func literal(text string) string {
	if !template.Is(text) {
		return text
	}
	return expression.ReplaceAllString(text, "$$$0")
}

// literals is literal for each of several, and nil for none.
func literals(texts []string) []string {
	if texts == nil {
		return nil
	}
	out := make([]string, len(texts))
	for i, text := range texts {
		out[i] = literal(text)
	}
	return out
}

// expression is how one begins, or its escape.
var expression = regexp.MustCompile(`\$+\{[A-Za-z_][A-Za-z0-9_]*\.`)

// variable is what Kubernetes replaces in commands and values, or its escape.
var variable = regexp.MustCompile(`\$?\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)`)

// expand replaces $(NAME) as Kubernetes does: by values that are known. It returns the names that
// are not, which Kubernetes leaves as they stand where nothing has that name. It fails when there
// is no room for the values: variables that have others twice double each time.
func expand(text string, e *environment) (expanded string, unknown []string, fits bool) {
	fits = true
	expanded = variable.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "$$") {
			return found[1:]
		}
		name := found[2 : len(found)-1]
		value, known := e.values[name]
		switch {
		case known && len(value) > e.room:
			fits = false
		case known:
			e.room -= len(value)
			return value
		case e.any || e.others[name]:
			unknown = append(unknown, name)
		}
		return found
	})
	return expanded, unknown, fits
}

// environment are the variables of a container as far as they are known.
type environment struct {
	values map[string]string
	others map[string]bool
	// any: there may be others.
	any bool
	// room is how many bytes of values may still be put into texts of the container.
	room int
}

func (e *environment) set(v score.EnvVar, value string) {
	if v.ValueFrom != nil {
		delete(e.values, v.Name)
		e.others[v.Name] = true
		return
	}
	delete(e.others, v.Name)
	e.values[v.Name] = value
}

// expanded is a text in which variables are replaced. It reports those whose values are of Secrets
// and ConfigMaps.
func (c *container) expanded(text string, e *environment, path ...string) string {
	out, unknown, fits := expand(text, e)
	if !fits {
		c.lost("with the values of its variables it is longer than a score may be", "write what the program needs of it", path...)
	}
	for _, name := range unknown {
		c.lost("Kubernetes puts the value of "+name+" here, and fleet puts no variables into commands and values",
			"have a shell do it: command [/bin/sh, -c, 'exec PROGRAM \"$"+name+"\"']", path...)
	}
	return literal(out)
}

// kubeCommand translates command and args.
func (c *container) kubeCommand(in *corev1.Container, e *environment) {
	for _, words := range []struct {
		field string
		in    []string
		out   *[]string
	}{{"command", take(&in.Command), &c.out.Command}, {"args", take(&in.Args), &c.out.Args}} {
		for i, word := range words.in {
			*words.out = append(*words.out, c.expanded(word, e, words.field, item(i)))
		}
	}
}

// fields of a Pod that a device knows, as expressions.
var fields = map[string]string{"spec.nodeName": "${device.name}", "status.hostIP": "${device.inventory.address}"}
