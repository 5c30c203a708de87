package tombstone

import "io/fs"

// SetReplaceFile makes a list in a file write whole files with write.
func (t *List) SetReplaceFile(write func(path string, data []byte, perm fs.FileMode) error) {
	t.journal.(*file).replace = write
}
