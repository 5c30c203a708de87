package convert

import (
	"bytes"
	"cmp"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Place is a line of a file.
type Place struct {
	File string
	Line int
}

// String is FILE:LINE.
func (p Place) String() string { return p.File + ":" + strconv.Itoa(p.Line) }

// Source finds lines in the files that were read.
type Source struct {
	files []string
	texts map[string][]byte
	roots []*yaml.Node
}

// Add adds a document of YAML. A document that is none has no lines: its reader says so.
func (s *Source) Add(file string, data []byte) {
	if s.texts == nil {
		s.texts = map[string][]byte{}
	}
	s.texts[file] = data
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err == nil && len(document.Content) == 1 {
		s.add(file, document.Content[0])
	}
}

func (s *Source) add(file string, root *yaml.Node) {
	s.files, s.roots = append(s.files, file), append(s.roots, root)
}

// Find returns where a path is, or the nearest that is above it. Of several files the last one
// that has it counts, as it overrides the others.
func (s *Source) Find(path []string) Place {
	if len(path) == 1 && strings.HasPrefix(path[0], "$") {
		return s.variable(strings.Trim(path[0], "${}"))
	}
	var best Place
	depth := -1
	for i, file := range s.files {
		if line, deep := find(s.roots[i], path, 0); deep >= depth {
			best, depth = Place{file, line}, deep
		}
	}
	return best
}

// maxHops bounds aliases and merges of aliases.
const maxHops = 32

// find returns the line of a path below a node and how much of the path is there.
func find(node *yaml.Node, path []string, hops int) (line, depth int) {
	line = node.Line
	for node.Kind == yaml.AliasNode && hops < maxHops {
		node, hops = node.Alias, hops+1
	}
	if len(path) == 0 || hops >= maxHops {
		return line, 0
	}
	switch node.Kind {
	case yaml.SequenceNode:
		return inList(node, path, line, hops)
	case yaml.MappingNode:
		return inMapping(node, path, line, hops)
	}
	return line, 0
}

func inList(node *yaml.Node, path []string, line, hops int) (int, int) {
	if i, err := strconv.Atoi(strings.Trim(path[0], "[]")); err == nil && strings.HasPrefix(path[0], "[") {
		if i >= len(node.Content) {
			return line, 0
		}
		at, depth := find(node.Content[i], path[1:], hops+1)
		return at, depth + 1
	}
	for _, each := range node.Content { // of a list of Kubernetes, by name
		if each.Kind != yaml.MappingNode {
			continue
		}
		for i := 0; i+1 < len(each.Content); i += 2 {
			if each.Content[i].Value == "name" && each.Content[i+1].Value == path[0] {
				at, depth := find(each, path[1:], hops+1)
				return at, depth + 1
			}
		}
	}
	for _, each := range node.Content { // NAME=value of a mapping that is written as a list
		if each.Kind == yaml.ScalarNode && (each.Value == path[0] || strings.HasPrefix(each.Value, path[0]+"=") || strings.HasPrefix(each.Value, path[0]+":")) {
			return each.Line, 1
		}
	}
	return line, 0
}

func inMapping(node *yaml.Node, path []string, line, hops int) (int, int) {
	best, depth := line, 0
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch key.Value {
		case path[0]:
			at, deep := find(value, path[1:], hops+1)
			if deep == 0 {
				at = key.Line
			}
			return at, deep + 1
		case "<<":
			merged := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				merged = value.Content
			}
			for _, each := range merged {
				if at, deep := find(each, path, hops+1); deep > depth {
					best, depth = at, deep
				}
			}
		}
	}
	return cmp.Or(best, line), depth
}

// variable returns where a variable is used first.
func (s *Source) variable(name string) Place {
	use := regexp.MustCompile(`\$\{?` + regexp.QuoteMeta(name) + `\b`)
	for _, file := range s.files {
		if at := use.FindIndex(s.texts[file]); at != nil {
			return Place{file, 1 + bytes.Count(s.texts[file][:at[0]], []byte("\n"))}
		}
	}
	if len(s.files) == 0 {
		return Place{}
	}
	return Place{s.files[0], 1}
}
