package assignment

import "slices"

// Operator says what a Requirement asks of the value of a label.
type Operator int

// Values of Operator. They mean what they mean in a Kubernetes label selector:
// NotIn is also met by a device without the label.
const (
	In Operator = iota
	NotIn
	Exists
	DoesNotExist
)

// Requirement is what a Selector asks of one label.
type Requirement struct {
	Key      string
	Operator Operator
	// Values are those of In and NotIn.
	Values []string
}

func (r Requirement) equal(o Requirement) bool {
	return r.Key == o.Key && r.Operator == o.Operator && slices.Equal(r.Values, o.Values)
}

// Selector selects the devices that meet every requirement. The zero Selector
// selects all.
type Selector struct {
	Requirements []Requirement
	// Nothing: it selects no device.
	Nothing bool
}

func (s Selector) equal(o Selector) bool {
	return s.Nothing == o.Nothing && slices.EqualFunc(s.Requirements, o.Requirements, Requirement.equal)
}

// condition is a Requirement in terms of the index.
type condition struct {
	operator Operator
	key      *labelKey
	values   []*label
	// lookup has the values when they are many.
	lookup map[*label]struct{}
}

// manyValues is how many values are looked up rather than compared one by one.
const manyValues = 8

func newCondition(r Requirement, x *labelIndex) condition {
	c := condition{operator: r.Operator, key: x.key(r.Key)}
	if r.Operator == Exists || r.Operator == DoesNotExist {
		return c
	}
	for _, text := range r.Values {
		c.values = append(c.values, c.key.label(text))
	}
	if len(c.values) > manyValues {
		c.lookup = make(map[*label]struct{}, len(c.values))
		for _, l := range c.values {
			c.lookup[l] = struct{}{}
		}
	}
	return c
}

func (c *condition) has(l *label) bool {
	if c.lookup != nil {
		_, has := c.lookup[l]
		return has
	}
	return slices.Contains(c.values, l)
}

// met reports whether a device with these labels meets the condition.
func (c *condition) met(labels []*label) bool {
	switch c.operator {
	case In:
		return slices.ContainsFunc(labels, c.has)
	case NotIn:
		return !slices.ContainsFunc(labels, c.has)
	case Exists:
		return slices.ContainsFunc(labels, c.ofKey)
	default:
		return !slices.ContainsFunc(labels, c.ofKey)
	}
}

func (c *condition) ofKey(l *label) bool { return l.key == c.key }

// positive: only devices in the index under the condition's labels meet it.
func (c *condition) positive() bool { return c.operator == In || c.operator == Exists }

// devices is at most how many devices meet a positive condition.
func (c *condition) devices() (n int) {
	if c.operator == Exists {
		return c.key.devices.len()
	}
	for _, l := range c.values {
		n += l.devices.len()
	}
	return n
}

// mentions calls f with the mentions of what the condition mentions.
func (c *condition) mentions(f func(*mentions)) {
	if c.operator == Exists || c.operator == DoesNotExist {
		f(&c.key.mentions)
		return
	}
	for _, l := range c.values {
		f(&l.mentions)
	}
}

// selection is a Selector in terms of the index.
type selection struct {
	Selector
	conditions []condition
	// anchor is the positive condition by which devices and Deployment find each
	// other, -1 when there is none.
	anchor int
}

// newSelection anchors the selector where the fewest devices are.
func newSelection(s Selector, x *labelIndex) selection {
	chosen := selection{Selector: s, anchor: -1}
	for i, r := range s.Requirements {
		c := newCondition(r, x)
		chosen.conditions = append(chosen.conditions, c)
		if c.positive() && (chosen.anchor < 0 || c.devices() < chosen.conditions[chosen.anchor].devices()) {
			chosen.anchor = i
		}
	}
	return chosen
}

func (s *selection) matches(labels []*label) bool {
	if s.Nothing {
		return false
	}
	for i := range s.conditions {
		if !s.conditions[i].met(labels) {
			return false
		}
	}
	return true
}

// everywhere: no label leads to the devices, so each new one is compared.
func (s *selection) everywhere() bool { return s.anchor < 0 && !s.Nothing }

// Matches reports whether a device with these labels meets every requirement, without an index.
func (s Selector) Matches(labels map[string]string) bool {
	return !s.Nothing && !slices.ContainsFunc(s.Requirements, func(r Requirement) bool { return !r.met(labels) })
}

func (r Requirement) met(labels map[string]string) bool {
	value, has := labels[r.Key]
	switch r.Operator {
	case In:
		return has && slices.Contains(r.Values, value)
	case NotIn:
		return !has || !slices.Contains(r.Values, value)
	case Exists:
		return has
	default:
		return !has
	}
}
