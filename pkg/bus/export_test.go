package bus

// MarkerTTL is how long a bucket remembers that a key was deleted.
const MarkerTTL = markerTTL

// BeatInterval is how long heartbeats are gathered.
const BeatInterval = beatInterval

// BucketsThat are those that publish heartbeats to a function.
func BucketsThat(publish func(subject string, data []byte) error) *Buckets {
	return &Buckets{beats: &beats{publish: publish}}
}

// DropBeat forgets a heartbeat that is not written yet.
func (b *Buckets) DropBeat(key string) { b.beats.drop(key) }
