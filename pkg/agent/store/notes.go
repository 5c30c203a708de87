package store

// Notes is a document in which a driver keeps what it must not forget.
type Notes struct {
	store *Store
	file  string
}

// Notes returns those of a driver.
func (s *Store) Notes(driver string) *Notes {
	return &Notes{store: s, file: notesPrefix + driver + notesSuffix}
}

// Load decodes the document into v and reports whether there is one that is whole.
func (n *Notes) Load(v any) bool { return n.store.read(n.file, v) }

// Save replaces the document.
func (n *Notes) Save(v any) error { return n.store.write(n.file, v) }
