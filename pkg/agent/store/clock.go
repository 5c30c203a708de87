package store

import "time"

type clockDocument struct {
	Good time.Time `json:"good"`
}

// GoodTime returns the last time that was found good, or zero.
func (s *Store) GoodTime() time.Time {
	var d clockDocument
	s.read(clockFile, &d)
	return d.Good
}

// SaveGoodTime replaces it.
func (s *Store) SaveGoodTime(t time.Time) error {
	return s.write(clockFile, clockDocument{Good: t.UTC()})
}
