package workload

import (
	"fmt"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Contents are those of the Secrets and ConfigMaps that a workload needs, at one moment.
type Contents struct {
	// Digest names all of them, and is not the same for others.
	Digest string
	// Objects are by the name of a Secret or the wire.ConfigMapName of a ConfigMap, and by key.
	Objects map[string]map[string][]byte
	// Mark names a content in hex: whoever has the name learns nothing of the content. Nil
	// is for those who change with each Digest.
	Mark func(content []byte) string
}

// MarkOf names a content, see Mark.
func (c *Contents) MarkOf(content []byte) string {
	if c.Mark == nil {
		return c.Digest
	}
	return c.Mark(content)
}

// Key returns the content of a key, or an error for one that is not there.
func (c *Contents) Key(object, key string) ([]byte, error) {
	content, there := c.Objects[object][key]
	if !there {
		return nil, fmt.Errorf("the %s has no key %q", wire.DescribeObject(object), key)
	}
	return content, nil
}
