package settings

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Change is a key of a configuration file with the value that it should have.
type Change struct {
	// Key has dots for mappings: server.urls.
	Key string
	// Values has one element, unless List is set.
	Values []string
	List   bool
	// Inline writes a new list on one line.
	Inline bool
	// Default leaves a value that is there.
	Default bool
}

func (c Change) String() string {
	if c.List {
		return c.Key + ": [" + strings.Join(c.Values, ", ") + "]"
	}
	return c.Key + ": " + c.Values[0]
}

func (c Change) node() *yaml.Node {
	if !c.List {
		return scalar(c.Values[0])
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if c.Inline {
		n.Style = yaml.FlowStyle
	}
	for _, v := range c.Values {
		n.Content = append(n.Content, scalar(v))
	}
	return n
}

func scalar(v string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v} }

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

// Edit makes changes to the content of a configuration file. Everything else
// stays, comments included. It also returns the changes that were none already.
func Edit(content []byte, changes ...Change) (edited []byte, made []Change, err error) {
	var root yaml.Node
	if err := yaml.Unmarshal(content, &root); err != nil {
		return nil, nil, notYAML(err, content)
	}
	var b bytes.Buffer
	if len(root.Content) == 0 { // comments, which no node has
		b.Write(ended(content))
	}
	if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
		root = yaml.Node{Kind: yaml.DocumentNode, HeadComment: root.HeadComment, Content: []*yaml.Node{mapping()}}
	}
	if root.Content[0].Kind != yaml.MappingNode {
		return nil, nil, errors.New("not a YAML mapping")
	}
	for _, c := range changes {
		if c.apply(root.Content[0]) {
			made = append(made, c)
		}
	}
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&root); err != nil {
		return nil, nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return b.Bytes(), made, nil
}

// ended is content whose last line has an end.
func ended(content []byte) []byte {
	if len(content) == 0 || bytes.HasSuffix(content, []byte("\n")) {
		return content
	}
	return append(bytes.Clone(content), '\n')
}

// apply reports whether the mapping said something else.
func (c Change) apply(m *yaml.Node) bool {
	keys := strings.Split(c.Key, ".")
	for _, key := range keys[:len(keys)-1] {
		m = child(m, key)
	}
	key, value := keys[len(keys)-1], c.node()
	if old := get(m, key); old != nil && (c.Default || equal(old, value)) {
		return false
	}
	set(m, key, value)
	return true
}

// get returns the value of a key, or nil. A mapping's Content alternates
// between keys and values.
func get(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func set(m *yaml.Node, key string, value *yaml.Node) {
	if old := get(m, key); old != nil {
		value.HeadComment, value.LineComment, value.FootComment = old.HeadComment, old.LineComment, old.FootComment
		*old = *value
		return
	}
	m.Content = append(m.Content, scalar(key), value)
}

// child returns the mapping under a key, and makes it when there is none.
func child(m *yaml.Node, key string) *yaml.Node {
	if c := get(m, key); c != nil && c.Kind == yaml.MappingNode {
		return c
	}
	set(m, key, mapping())
	return get(m, key)
}

func equal(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	for i := range a.Content {
		if !equal(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}
