package convert

import (
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// resources translates limits. Those of deploy are there already.
func (c *container) resources(in *types.ContainerSpec) {
	c.memory(int64(take(&in.MemLimit)), "mem_limit")
	c.reservation(int64(take(&in.MemReservation)), "mem_reservation")
	c.swap(in)
	c.cpus(float64(take(&in.CPUS)), "cpus")
	if in.CPUQuota > 0 && c.out.Resources.Limits.CPU == "" {
		period := take(&in.CPUPeriod)
		if period == 0 {
			period = 100_000 // microseconds, the kernel's own
		}
		c.cpus(float64(take(&in.CPUQuota))/float64(period), "cpu_quota")
	}
	c.pids(take(&in.PidsLimit), "pids_limit")
	if b := in.BlkioConfig; b != nil && b.Weight > 0 {
		weight := int(b.Weight)
		if !c.refused(func(s *score.Service) { s.Resources.IOWeight = &weight }) {
			take(&b.Weight)
			c.out.Resources.IOWeight = &weight
		}
	}
}

func (c *container) memory(n int64, path ...string) {
	if n != 0 {
		c.limit(func(l *score.Limits) *string { return &l.Memory }, quantity(n), "a limit of memory is at least 4Mi", "give more", path)
	}
}

// limit translates a limit, unless PodmanV0 does not take it: then it says why, and what to do.
func (c *container) limit(of func(*score.Limits) *string, value, why, instead string, path []string) {
	if c.refused(func(s *score.Service) { *of(&s.Resources.Limits) = value }) {
		c.lost(why, instead, path...)
		return
	}
	c.replaces(*of(&c.out.Resources.Limits), value, path)
	*of(&c.out.Resources.Limits) = value
}

func (c *container) reservation(n int64, path ...string) {
	if n == 0 {
		return
	}
	limit := c.out.Resources.Limits
	if c.refused(func(s *score.Service) { s.Resources.Limits, s.Resources.Requests.Memory = limit, quantity(n) }) {
		c.lost("a request of memory is at least 4Mi and at most the limit", "change one of them", path...)
		return
	}
	c.replaces(c.out.Resources.Requests.Memory, quantity(n), path)
	c.out.Resources.Requests.Memory = quantity(n)
}

// swap translates the limit of memory and swap together.
func (c *container) swap(in *types.ContainerSpec) {
	total := int64(in.MemSwapLimit)
	beyond := total - score.Bytes(c.out.Resources.Limits.Memory)
	if total <= 0 || beyond < 0 || c.out.Resources.Limits.Memory == "" {
		return // left and reported
	}
	take(&in.MemSwapLimit)
	c.out.Resources.Limits.Swap = quantity(beyond)
}

func (c *container) cpus(n float64, path ...string) {
	if n != 0 {
		c.limit(func(l *score.Limits) *string { return &l.CPU }, processors(n), "a limit of processors is within 10m and 1024", "give more, or leave it out", path)
	}
}

func (c *container) pids(n int64, path ...string) {
	limit := int(n)
	switch {
	case n == 0:
	case c.refused(func(s *score.Service) { s.Resources.Limits.PIDs = &limit }):
		c.lost(strconv.FormatInt(n, 10)+" is no limit that PodmanV0 takes", "leave it out for podman's 2048, or give a number", path...)
	default:
		if before := c.out.Resources.Limits.PIDs; before != nil {
			c.replaces(strconv.Itoa(*before), strconv.Itoa(limit), path)
		}
		c.out.Resources.Limits.PIDs = &limit
	}
}

// replaces reports a limit that is given twice.
func (c *container) replaces(before, after string, path []string) {
	if before != "" && before != after {
		c.lost("it is given twice, and "+after+" replaces "+before, "leave one of them out", path...)
	}
}
