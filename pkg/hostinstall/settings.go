package hostinstall

import (
	"bytes"
	"errors"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Setting is a key of a configuration file with the value that it should have.
type Setting struct {
	Key string
	// Values has one element, unless List is set.
	Values []string
	List   bool
}

func (s Setting) String() string {
	if s.List {
		return s.Key + ": [" + strings.Join(s.Values, ", ") + "]"
	}
	return s.Key + ": " + s.Values[0]
}

func (s Setting) node() *yaml.Node {
	if !s.List {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.Values[0]}
	}
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: yaml.FlowStyle}
	for _, v := range s.Values {
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v})
	}
	return n
}

// merge puts settings into a YAML mapping and says which of them differ from
// what it says.
func merge(old []byte, settings []Setting) (content []byte, changes []string, err error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(old, &doc); err != nil {
		return nil, nil, err
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		doc = yaml.Node{Kind: yaml.DocumentNode, HeadComment: doc.HeadComment, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}}
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, nil, errors.New("not a YAML mapping")
	}
	for _, s := range settings {
		if put(top, s) {
			changes = append(changes, s.String())
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), changes, nil
}

// put reports whether the mapping said something else. A mapping's Content
// alternates between keys and values.
func put(m *yaml.Node, s Setting) bool {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value != s.Key {
			continue
		}
		value, old := s.node(), m.Content[i+1]
		if equal(value, old) {
			return false
		}
		value.HeadComment, value.LineComment, value.FootComment = old.HeadComment, old.LineComment, old.FootComment
		*old = *value
		return true
	}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.Key}, s.node())
	return true
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
