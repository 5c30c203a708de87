package bus

// MarkerTTL is how long a bucket remembers that a key was deleted.
const MarkerTTL = markerTTL
