package doctor

import (
	"errors"
	"fmt"
	"io/fs"
)

// connecting are the packages that networks of containers need, by the same names for
// every package manager.
var connecting = []string{"netavark", "aardvark-dns", "iptables", "nftables"}

func networks(f Facts) (list []Finding) {
	finding := Finding{Check: "networks", Why: "services of a Deployment reach each other by name in a network (Bridge), or are in one (Shared)"}
	if f.Podman.Err != nil {
		return []Finding{finding.unknown("podman does not answer")}
	}
	info := &f.Podman.Value
	switch {
	case info.NoBridge != "":
		list = append(list, finding.warning("network.mode Bridge: "+info.NoBridge).remedy(installCommand(f.Packages, false, connecting)))
	case f.NamesLost.Err == nil && f.NamesLost.Value:
		list = append(list, finding.warning("podman's server of names (aardvark-dns) has ended, and services find nothing by name: the agent starts it anew within a minute"))
	}
	if info.NoShared != "" {
		list = append(list, finding.warning("network.mode Shared: "+info.NoShared).remedy(installCommand(f.Packages, false, []string{"catatonit"})))
	}
	if len(list) == 0 {
		list = append(list, finding.ok("podman has what networks need, and its server of names runs where one is needed"))
	}
	return list
}

func interpreters(f Facts) (list []Finding) {
	finding := Finding{Check: "interpreters", Why: "the agent asks them for workloads of their types, at a socket of systemd's that only root can have put there"}
	if errors.Is(f.Interpreters.Err, errNotAsked) {
		return nil
	}
	for _, i := range f.Interpreters.Value {
		switch {
		case errors.Is(i.Problem, fs.ErrPermission):
			list = append(list, finding.unknown(fmt.Sprintf("%s: %s", i.Name, ErrNeedsRoot)))
		case i.Problem != nil && i.Unit != "":
			list = append(list, finding.warning(fmt.Sprintf("%s: %s", i.Name, i.Problem)).fix(fmt.Sprintf("systemctl stop %[1]s.service && systemctl restart %[1]s.socket", i.Unit)))
		case i.Problem != nil:
			list = append(list, finding.warning(fmt.Sprintf("%s: %s", i.Name, i.Problem)))
		default:
			list = append(list, finding.ok(i.Name+" answers"))
		}
	}
	if len(list) == 0 {
		list = append(list, finding.ok("none is registered, and fileRoots is empty"))
	}
	return list
}
