package client

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

const (
	// maxWords bounds the strings that are remembered: when there are more, all are
	// forgotten, and those that are in use are soon there again.
	maxWords = 4096
	// maxWord is how long a string may be that is remembered.
	maxWord = 256
	// maxFields is how long managed fields may be that are remembered.
	maxFields = 4096
)

// words has one copy of each string that many objects have: reasons and messages of
// conditions, for example. Each object that is decoded brings its own.
type words struct {
	mu    sync.Mutex // guards what follows
	known map[string]string
	// fields has the managed fields of devices by their text: those that reported the same
	// labels share them.
	fields map[string][]metav1.ManagedFieldsEntry
}

func newWords() *words {
	return &words{known: map[string]string{}, fields: map[string][]metav1.ManagedFieldsEntry{}}
}

// share returns the copy of a string that all have.
func (w *words) share(s string) string {
	if s == "" || len(s) > maxWord {
		return s
	}
	if known, ok := w.known[s]; ok {
		return known
	}
	if len(w.known) >= maxWords {
		clear(w.known)
	}
	w.known[s] = s
	return s
}

func (w *words) shareAll(list []string) {
	for i, s := range list {
		list[i] = w.share(s)
	}
}

// shareFields leaves of managed fields what DeviceManager applied.
func (w *words) shareFields(all []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	applied := appliedBy(all)
	if applied == nil {
		return nil
	}
	text := applied.GetRawString()
	if known, ok := w.fields[text]; ok {
		return known
	}
	entries := fieldsOf(text)
	if len(text) > maxFields {
		return entries
	}
	if len(w.fields) >= maxWords {
		clear(w.fields)
	}
	w.fields[text] = entries
	return entries
}

// compactDevice is a cache.TransformFunc that makes a Device of an informer small: it
// strips the managed fields of all but DeviceManager, and shares what is not its own.
func (w *words) compactDevice(o any) (any, error) {
	d, ok := o.(*v1alpha1.Device)
	if !ok {
		return reconcile.WithoutManagedFields(o)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.compactMeta(&d.ObjectMeta)
	d.Kind, d.APIVersion = w.share(d.Kind), w.share(d.APIVersion)
	w.compactSpec(&d.Spec)
	w.compactStatus(&d.Status)
	return d, nil
}

// compactMeta also makes labels that hold the name refer to it.
func (w *words) compactMeta(m *metav1.ObjectMeta) {
	m.ManagedFields = w.shareFields(m.ManagedFields)
	w.shareAll(m.Finalizers)
	for key, value := range m.Labels {
		if value == m.Name {
			value = m.Name
		} else {
			value = w.share(value)
		}
		m.Labels[w.share(key)] = value // which also replaces the key
	}
}

func (w *words) compactSpec(s *v1alpha1.DeviceSpec) {
	s.OnRevoke = v1alpha1.RevocationPolicy(w.share(string(s.OnRevoke)))
	if i := s.Inventory; i != nil {
		for _, fact := range []*string{&i.Arch, &i.OS, &i.OSVersion, &i.Kernel, &i.AgentVersion, &i.PodmanVersion} {
			*fact = w.share(*fact)
		}
	}
	if e := s.Enrollment; e != nil {
		e.Token = w.share(e.Token)
		w.shareAll(e.AllowedLabelKeys)
	}
}

func (w *words) compactStatus(s *v1alpha1.DeviceStatus) {
	for i := range s.Conditions {
		c := &s.Conditions[i]
		c.Type, c.Reason, c.Message = w.share(c.Type), w.share(c.Reason), w.share(c.Message)
		c.Status = metav1.ConditionStatus(w.share(string(c.Status)))
	}
	w.shareAll(s.Capabilities)
	if s.Nonce != nil {
		s.Nonce.Epoch = w.share(s.Nonce.Epoch)
	}
}
