package score

// Resources are named as in a Kubernetes Pod.
type Resources struct {
	// Limits are what the container may use at most.
	Limits Limits `json:"limits,omitzero"`
	// Requests are what it gets when others want it, too.
	Requests Requests `json:"requests,omitzero"`
	// IOWeight is its share of the disks beside other containers, 10 to 1000; nil for 100.
	IOWeight *int `json:"ioWeight,omitempty"`
}

// Limits are what a container may use at most.
type Limits struct {
	// Memory in bytes, as Kubernetes writes quantities: 64Mi, 512M, 0.5Gi, 1e9. A
	// container that needs more is killed. Empty for no limit.
	Memory string `json:"memory,omitempty"`
	// CPU in processors: 500m is half of one, 2 are two. Empty for no limit.
	CPU string `json:"cpu,omitempty"`
	// Swap is what it may have swapped out beyond Memory, which is needed then, in bytes.
	// Empty for nothing.
	Swap string `json:"swap,omitempty"`
	// PIDs is how many processes and threads there may be at one time; nil for the 2048 of
	// podman.
	PIDs *int `json:"pids,omitempty"`
}

// Requests are what a container gets when there is not enough for all.
type Requests struct {
	// Memory is not taken away from the container while others have more than their own
	// requests, in bytes.
	Memory string `json:"memory,omitempty"`
}

const (
	// minMemory is less than any program needs: crun alone takes half a megabyte.
	minMemory = "4Mi"
	// minCPU is the least that the kernel can limit to, maxCPU more than any device has, in
	// thousandths of a processor.
	minCPU, maxCPU = 10, 1024_000
	// maxPIDs is what kernels can count at most.
	maxPIDs = 1 << 22
)

func (r *Resources) validate(at string) error {
	return all(
		r.Limits.validate(at+".limits"),
		checkBytes(at+".requests.memory", r.Requests.Memory, minMemory),
		r.validateRequest(at+".requests.memory"),
		checkWithin(at+".ioWeight", r.IOWeight, 10, 1000),
	)
}

func (r *Resources) validateRequest(field string) error {
	if limit := r.Limits.MemoryBytes(); limit > 0 && Bytes(r.Requests.Memory) > limit {
		return fieldErrorf(field, "%.32q is more than limits.memory", r.Requests.Memory)
	}
	return nil
}

func (l *Limits) validate(at string) error {
	return all(
		checkBytes(at+".memory", l.Memory, minMemory),
		l.validateCPU(at+".cpu"),
		checkBytes(at+".swap", l.Swap, "0"),
		l.validateSwap(at+".swap"),
		checkWithin(at+".pids", l.PIDs, 1, maxPIDs),
	)
}

func (l *Limits) validateCPU(field string) error {
	const instead = "processors, such as 500m or 1.5"
	if l.CPU == "" {
		return nil
	}
	if err := checkQuantity(field, l.CPU, instead); err != nil {
		return err
	}
	if n, ok := quantity(l.CPU, 1000); !ok || n < minCPU || n > maxCPU {
		return fieldErrorf(field, "%.32q is not within 10m to 1024: use %s", l.CPU, instead)
	}
	return nil
}

func (l *Limits) validateSwap(field string) error {
	if l.Swap != "" && l.Memory == "" {
		return fieldErrorf(field, "limits.memory is needed, too")
	}
	if l.MemoryBytes()+Bytes(l.Swap) < 0 {
		return fieldErrorf(field, "%.32q is too much", l.Swap)
	}
	return nil
}

// MemoryBytes is the limit of memory in bytes, 0 for none. The limits must be
// valid.
func (l *Limits) MemoryBytes() int64 { return Bytes(l.Memory) }

// CPUMillis is the limit of processors in thousandths, 0 for none. The limits must be valid.
func (l *Limits) CPUMillis() int64 {
	n, _ := quantity(l.CPU, 1000)
	return n
}
