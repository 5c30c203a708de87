package support

// SetLimits replaces the limits of a file and of all of them, in bytes.
func (a *Archive) SetLimits(entry, all int) { a.entry, a.all = entry, all }
