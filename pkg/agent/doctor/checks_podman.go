package doctor

import (
	"fmt"
	"slices"
	"strings"
)

const (
	// A file system with less than lowSpace of its size free is a warning, as in
	// condition DiskPressure; with less than noSpace, writes are about to fail.
	lowSpace, noSpace = 0.10, 0.02
)

// controller is one of the kernel's means to limit containers.
type controller struct {
	name, why string
	// spare: nothing that fleet does needs it.
	spare bool
}

var knownControllers = []controller{
	{name: "cpu", why: "limits of processor time are ignored without it"},
	{name: "memory", why: "limits of memory are ignored without it: a container that leaks takes the device down"},
	{name: "pids", why: "without it nothing bounds the number of processes of a container, and podman 5 starts one only with pids_limit = 0"},
	{name: "io", why: "limits of disk traffic are ignored without it; no score has them", spare: true},
}

func controllers(f Facts) []Finding {
	var list []Finding
	for _, c := range knownControllers {
		list = append(list, c.examine(f))
	}
	return list
}

func (c controller) examine(f Facts) Finding {
	finding := Finding{Check: "cgroup-" + c.name, Why: c.why}
	switch {
	case f.Cgroup.Delegated.Err == nil && slices.Contains(f.Cgroup.Delegated.Value, c.name):
		return finding.ok("delegated to " + f.Workload)
	case !slices.Contains(f.Cgroup.Kernel, c.name):
		return c.missing(finding, f.Cgroup)
	case f.Cgroup.Delegated.Err != nil:
		return finding.unknown(f.Cgroup.Delegated.Err.Error())
	case c.spare:
		return finding.ok("not delegated, and not needed")
	}
	return finding.warning("systemd does not delegate it to " + f.Workload + "; it does after the command and a reboot").remedy(delegateCommand)
}

// delegateCommand takes effect when systemd starts for the account again, which
// ends its containers: so the operator chooses when.
const delegateCommand = `mkdir -p /etc/systemd/system/user@.service.d && ` +
	`printf '[Service]\nDelegate=cpu cpuset io memory pids\n' >/etc/systemd/system/user@.service.d/50-fleet.conf && systemctl daemon-reload`

// missing says why the kernel has no such controller.
func (c controller) missing(finding Finding, g Cgroup) Finding {
	if c.spare {
		return finding.ok("the kernel does not have it, and it is not needed")
	}
	disabled := slices.ContainsFunc(strings.Fields(g.CommandLine), func(option string) bool {
		list, ok := strings.CutPrefix(option, "cgroup_disable=")
		return ok && slices.Contains(strings.Split(list, ","), c.name)
	})
	switch {
	case c.name == "memory" && strings.HasPrefix(g.Board, "Raspberry Pi") && g.BootFile != "":
		return finding.warning("a Raspberry Pi boots without it; it is there after the command and a reboot").
			remedy(`sed -i '1s/$/ cgroup_enable=memory/' ` + g.BootFile)
	case disabled:
		return finding.warning("the kernel's command line turns it off: remove " + c.name + " from cgroup_disable= there, and reboot")
	case !g.Unified || slices.Contains(g.Legacy, c.name):
		return finding.warning("cgroup version 1 holds it: add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, and reboot")
	}
	return finding.warning("the kernel does not have it")
}

func podmanSocket(f Facts) []Finding {
	finding := Finding{Check: "podman-socket", Why: "the agent drives podman through it; containers that run go on without it"}
	switch {
	case f.Socket.Open:
		return []Finding{finding.failure("accounts beside fleet-agent and fleet-workload can enter its directory: whoever uses the socket controls every container").fix(setupCommand(f))}
	case f.Podman.Err == nil && !tried(f.Podman.Value.Version):
		return []Finding{finding.warning("podman " + f.Podman.Value.Version + " answers at " + f.Socket.Path +
			"; this agent was tried with podman 4.3 to 6, and works with others as far as they did not change")}
	case f.Podman.Err == nil:
		return []Finding{finding.ok("podman " + f.Podman.Value.Version + " answers at " + f.Socket.Path)}
	case f.Socket.Exists.Err != nil:
		return []Finding{finding.unknown(f.Socket.Path + ": " + f.Socket.Exists.Err.Error())}
	}
	return []Finding{finding.failure(f.Podman.Err.Error()).fix(setupCommand(f))}
}

// tried reports whether a version of podman is one that the agent was tried with. What is
// no version is none of podman's.
func tried(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major == 5 || major == 6 || major == 4 && minor >= 3
}

func storageDriver(f Facts) []Finding {
	finding := Finding{Check: "storage-driver", Why: "vfs copies every layer for each image and container, which fills the disk"}
	switch {
	case f.Podman.Err != nil:
		return []Finding{finding.unknown("podman does not answer")}
	case f.Podman.Value.Driver == "vfs":
		command := ""
		if tool := setupCommand(f); tool != "" {
			// A service that runs would go on with the old driver.
			const reset = `sh -c 'systemctl --user stop podman.socket podman.service; podman system reset --force'`
			command = asWorkload(f, reset) + " && " + tool
		}
		return []Finding{finding.warning("podman copies layers (vfs); the command REMOVES all containers, images and volumes of " + f.Workload + ", so that the driver can change").remedy(command)}
	}
	return []Finding{finding.ok("podman shares layers (" + f.Podman.Value.Driver + ")")}
}

func disks(f Facts) []Finding {
	var list []Finding
	for _, d := range f.Disks {
		finding := Finding{Check: "disk", Why: "on a full file system pulls fail, and the agent cannot keep what it is told"}
		list = append(list, d.examine(finding, f))
	}
	return list
}

func (d Disk) examine(finding Finding, f Facts) Finding {
	prune := ""
	if f.Workload != "" {
		prune = asWorkload(f, "podman image prune --force")
	}
	space, inodes := share(d.Size-min(d.Used, d.Size), d.Size), share(d.FreeInodes, d.Inodes)
	left := fmt.Sprintf("%.0f %% of the file system of %s (%s) is free", 100*space, d.Path, d.Name)
	if inodes < space {
		left = fmt.Sprintf("%.0f %% of the inodes of the file system of %s (%s) are free", 100*inodes, d.Path, d.Name)
	}
	switch least := min(space, inodes); {
	case d.ReadOnly:
		return finding.failure("the file system of " + d.Path + " (" + d.Name + ") is read-only: see dmesg for errors of the disk")
	case least < noSpace:
		return finding.failure(left).remedy(prune)
	case least < lowSpace:
		return finding.warning(left).remedy(prune)
	}
	return finding.ok(left)
}

// share is a part of a whole; of nothing everything is left.
func share(part, whole uint64) float64 {
	if whole == 0 {
		return 1
	}
	return float64(part) / float64(whole)
}
