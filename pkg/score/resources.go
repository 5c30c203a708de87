package score

import (
	"math"
	"strconv"
)

// Resources are named as in a Kubernetes Pod.
type Resources struct {
	Limits Limits `json:"limits,omitzero"`
}

// Limits are what a container may use at most.
type Limits struct {
	// Memory in bytes, or with one of the suffixes Ki, Mi and Gi: 64Mi. A container
	// that needs more is killed. Empty for no limit.
	Memory string `json:"memory,omitempty"`
}

// minMemory is less than any program needs: crun alone takes half a megabyte.
const minMemory = 4 << 20

func (l Limits) validate(at string) error {
	if l.Memory == "" {
		return nil
	}
	if bytes, ok := l.memory(); !ok || bytes < minMemory {
		return fieldErrorf(at+".memory", "%.32q is not at least 4Mi: use bytes, or a number with Ki, Mi or Gi", l.Memory)
	}
	return nil
}

// MemoryBytes is the limit of memory in bytes, 0 for none. The limits must be
// valid.
func (l Limits) MemoryBytes() int64 {
	bytes, _ := l.memory()
	return bytes
}

func (l Limits) memory() (bytes int64, ok bool) {
	m := memoryPattern.FindStringSubmatch(l.Memory)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	shift := map[string]int{"": 0, "Ki": 10, "Mi": 20, "Gi": 30}[m[2]]
	if err != nil || n > math.MaxInt64>>shift {
		return 0, false
	}
	return n << shift, true
}
