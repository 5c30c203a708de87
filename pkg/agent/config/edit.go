package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"go.yaml.in/yaml/v3"

	"fleet.nationtech.io/fleet/pkg/settings"
)

// Enrolled returns the content of agent.yaml with what enrollment found out:
// the device id and the NATS URLs. Everything else that the file has stays,
// comments included. A file that does not exist counts as empty.
func Enrolled(path, device string, urls []string) ([]byte, error) {
	data, err := settings.Read(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	root, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w in %s: %w", settings.ErrInvalid, path, err)
	}
	top := root.Content[0]
	set(top, "device", scalar(device))
	set(child(top, "server"), "urls", list(urls))
	if get(child(top, "credentials"), "type") == nil {
		set(child(top, "credentials"), "type", scalar(CredentialsX509))
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return b.Bytes(), nil
}

// parse returns a document node that holds a mapping.
func parse(data []byte) (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, err
	}
	if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
		comment := root.HeadComment
		root = yaml.Node{Kind: yaml.DocumentNode, HeadComment: comment, Content: []*yaml.Node{mapping()}}
	}
	if root.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("not a YAML mapping")
	}
	return &root, nil
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

func scalar(v string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v} }

func list(values []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, v := range values {
		n.Content = append(n.Content, scalar(v))
	}
	return n
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
