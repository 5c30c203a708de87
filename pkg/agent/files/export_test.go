package files

// SetCut has a function called before each change of the disk. Its error ends what is under
// way, as a power cut does.
func (f *Files) SetCut(cut func() error) { f.cut = cut }
