package client

// CompactDevices returns a transform of an informer of Devices, and how many strings it
// remembers.
func CompactDevices() (transform func(any) (any, error), remembered func() int) {
	w := newWords()
	return w.compactDevice, func() int { return len(w.known) }
}

// MaxWords is how many that are at most.
const MaxWords = maxWords
