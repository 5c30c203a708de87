package assignment

import (
	"cmp"
	"slices"
	"strings"
)

// labelIndex leads from a label to the devices that have it and to the
// Deployments that mention it.
type labelIndex struct {
	keys map[string]*labelKey
	// everywhere are the Deployments whose selector has no positive requirement.
	everywhere []*deployment
}

// labelKey is the key of labels, with every value that a device has or a
// Deployment mentions.
type labelKey struct {
	text    string
	labels  map[string]*label
	devices set
	// mentions are of the key as such: Exists and DoesNotExist.
	mentions mentions
}

// label is a key with a value. Millions exist that one device has, such as its
// own name.
type label struct {
	key     *labelKey
	text    string
	devices set
	// mentions are of the value: In and NotIn.
	mentions mentions
}

// mentions are the Deployments whose selector mentions a label; nil for none.
type mentions struct{ *mentionLists }

type mentionLists struct {
	all []*deployment
	// anchored are those that new devices are compared with.
	anchored []*deployment
}

func (m *mentions) add(d *deployment, anchored bool) {
	if m.mentionLists == nil {
		m.mentionLists = &mentionLists{}
	}
	m.all = append(m.all, d)
	if anchored {
		m.anchored = append(m.anchored, d)
	}
}

func (m *mentions) remove(d *deployment, anchored bool) {
	m.all = without(m.all, d)
	if anchored {
		m.anchored = without(m.anchored, d)
	}
	if len(m.all) == 0 {
		m.mentionLists = nil
	}
}

func (m mentions) list() []*deployment {
	if m.mentionLists == nil {
		return nil
	}
	return m.all
}

func (m mentions) anchors() []*deployment {
	if m.mentionLists == nil {
		return nil
	}
	return m.anchored
}

// without removes d once; the order is nobody's.
func without(list []*deployment, d *deployment) []*deployment {
	i := slices.Index(list, d)
	last := len(list) - 1
	list[i], list[last] = list[last], nil
	return list[:last]
}

func (x *labelIndex) key(text string) *labelKey {
	k := x.keys[text]
	if k == nil {
		k = &labelKey{text: text, labels: map[string]*label{}}
		x.keys[text] = k
	}
	return k
}

func (k *labelKey) label(text string) *label {
	l := k.labels[text]
	if l == nil {
		l = &label{key: k, text: text}
		k.labels[text] = l
	}
	return l
}

// forget drops a label, and its key, that nothing names any more.
func (x *labelIndex) forget(l *label) {
	if l.devices.len() == 0 && l.mentions.mentionLists == nil {
		delete(l.key.labels, l.text)
		x.forgetKey(l.key)
	}
}

func (x *labelIndex) forgetKey(k *labelKey) {
	if len(k.labels) == 0 && k.devices.len() == 0 && k.mentions.mentionLists == nil {
		delete(x.keys, k.text)
	}
}

// mention enters what a Deployment selects.
func (x *labelIndex) mention(d *deployment) {
	for i := range d.selection.conditions {
		anchored := i == d.selection.anchor
		d.selection.conditions[i].mentions(func(m *mentions) { m.add(d, anchored) })
	}
	if d.selection.everywhere() {
		x.everywhere = append(x.everywhere, d)
	}
}

// unmention is the reverse of mention. The labels are kept: see forgetMentioned.
func (x *labelIndex) unmention(d *deployment) {
	for i := range d.selection.conditions {
		anchored := i == d.selection.anchor
		d.selection.conditions[i].mentions(func(m *mentions) { m.remove(d, anchored) })
	}
	if d.selection.everywhere() {
		x.everywhere = without(x.everywhere, d)
	}
}

// forgetMentioned drops what a previous selection alone mentioned.
func (x *labelIndex) forgetMentioned(previous selection) {
	for i := range previous.conditions {
		c := &previous.conditions[i]
		for _, l := range c.values {
			x.forget(l)
		}
		x.forgetKey(c.key)
	}
}

// labelChange is how the labels of a device change.
type labelChange struct{ lost, gained []*label }

// compare says how a device's labels change into these.
func (x *labelIndex) compare(have []*label, labels map[string]string) (c labelChange) {
	kept := 0
	for _, l := range have {
		if text, has := labels[l.key.text]; has && text == l.text {
			kept++
		} else {
			c.lost = append(c.lost, l)
		}
	}
	if kept == len(labels) {
		return c
	}
	for key, text := range labels {
		if l := x.key(key).label(text); !slices.Contains(have, l) {
			c.gained = append(c.gained, l)
		}
	}
	slices.SortFunc(c.gained, byKey)
	return c
}

func byKey(a, b *label) int {
	return cmp.Or(strings.Compare(a.key.text, b.key.text), strings.Compare(a.text, b.text))
}

// change changes the labels of a device.
func (x *labelIndex) change(d *device, c labelChange) {
	for _, l := range c.lost {
		l.devices.remove(d.number)
		l.key.devices.remove(d.number)
	}
	for _, l := range c.gained {
		l.devices.add(d.number)
		l.key.devices.add(d.number)
	}
	labels := make([]*label, 0, len(d.labels)-len(c.lost)+len(c.gained))
	for _, l := range d.labels {
		if !slices.Contains(c.lost, l) {
			labels = append(labels, l)
		}
	}
	d.labels = append(labels, c.gained...)
	for _, l := range c.lost {
		x.forget(l)
	}
}

// mentioning calls f with the Deployments whose match a change of labels can
// change, some of them several times.
func (c labelChange) mentioning(f func(*deployment)) {
	for _, l := range slices.Concat(c.lost, c.gained) {
		for _, d := range l.mentions.list() {
			f(d)
		}
	}
	c.otherKeys(func(k *labelKey) {
		for _, d := range k.mentions.list() {
			f(d)
		}
	})
}

// otherKeys calls f with the keys that the device has not kept.
func (c labelChange) otherKeys(f func(*labelKey)) {
	in := func(list []*label, k *labelKey) bool {
		return slices.ContainsFunc(list, func(l *label) bool { return l.key == k })
	}
	for _, l := range c.lost {
		if !in(c.gained, l.key) {
			f(l.key)
		}
	}
	for _, l := range c.gained {
		if !in(c.lost, l.key) {
			f(l.key)
		}
	}
}

// candidates calls f with every Deployment that can match a device with these
// labels, some of them several times.
func (x *labelIndex) candidates(labels []*label, f func(*deployment)) {
	for _, l := range labels {
		for _, d := range l.mentions.anchors() {
			f(d)
		}
		for _, d := range l.key.mentions.anchors() {
			f(d)
		}
	}
	for _, d := range x.everywhere {
		f(d)
	}
}

// candidates is at most how many devices the selection can match, unless it selects
// everywhere.
func (s *selection) candidates() int {
	if s.Nothing {
		return 0
	}
	return s.conditions[s.anchor].devices()
}

// eachCandidate calls f with the number of every device that the selection can match,
// some of them several times, unless it selects everywhere.
func (s *selection) eachCandidate(f func(uint32)) {
	switch {
	case s.Nothing:
	case s.conditions[s.anchor].operator == Exists:
		s.conditions[s.anchor].key.devices.each(f)
	default:
		for _, l := range s.conditions[s.anchor].values {
			l.devices.each(f)
		}
	}
}
