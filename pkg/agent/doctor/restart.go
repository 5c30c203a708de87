package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Restart says what the device itself lacks for workloads to run again after it was
// restarted, one item each. What cannot be looked at is not said.
func Restart(f Facts) (missing []string) {
	lacks := func(there Fact[bool], what string) {
		if there.Err == nil && !there.Value {
			missing = append(missing, what)
		}
	}
	lacks(f.Linger, "linger of "+f.Workload)
	lacks(f.SocketEnabled, "podman.socket of "+f.Workload+", which is not enabled")
	lacks(f.AgentEnabled, "fleet-agent.service, which is not enabled")
	return missing
}

// enabled reports whether one of the links is there by which systemd starts a unit.
func (l Local) enabled(links ...string) Fact[bool] {
	var unseen error
	for _, link := range links {
		_, err := os.Lstat(l.path(link))
		switch {
		case err == nil:
			return known(true)
		case !errors.Is(err, fs.ErrNotExist):
			unseen = err
		}
	}
	return Fact[bool]{Err: unseen}
}

// socketEnabled looks for what setup-user, the account or the system's administrator
// enabled.
func (l Local) socketEnabled(account Account) Fact[bool] {
	const wants = "systemd/user/sockets.target.wants/podman.socket"
	return l.enabled(filepath.Join(account.Home, ".config", wants), filepath.Join("etc", wants), filepath.Join("usr/lib", wants))
}

// agentEnabled looks for what packages or the administrator enabled.
func (l Local) agentEnabled() Fact[bool] {
	const unit = "fleet-agent.service"
	if !l.exists("usr/lib/systemd/system/"+unit) && !l.exists("lib/systemd/system/"+unit) && !l.exists("etc/systemd/system/"+unit) {
		return unknownFact[bool](errNotUnit)
	}
	return l.enabled("etc/systemd/system/multi-user.target.wants/" + unit)
}
