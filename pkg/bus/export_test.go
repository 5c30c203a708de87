package bus

// StateMarkerTTL is how long the bucket of reports remembers that a key was deleted.
const StateMarkerTTL = stateMarkerTTL

// BeatInterval is how long heartbeats are gathered.
const BeatInterval = beatInterval

// BucketsThat are those that publish heartbeats to a function.
func BucketsThat(publish func(subject string, data []byte) error) *Buckets {
	return &Buckets{beats: &beats{publish: publish}}
}

// DropBeat forgets a heartbeat that is not written yet.
func (b *Buckets) DropBeat(key string) { b.beats.drop(key) }
