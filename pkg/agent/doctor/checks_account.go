package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// setupTools are where a package, and an installation without one, put
// setup-user, which prepares the accounts; it is idempotent and removes nothing.
var setupTools = []string{"/usr/libexec/fleet-agent/setup-user", "/usr/local/libexec/fleet-agent/setup-user"}

// minIDs is how many ids a container image may use.
const minIDs = 65536

// setupCommand is the command that completes the set-up, where there is one.
func setupCommand(f Facts) string {
	if !f.Packaged {
		return ""
	}
	return f.SetupTool
}

// asWorkload is a shell command that runs another as the workload account. It
// gives the account pipes and a session of its own: with the operator's terminal,
// as runuser keeps it, whoever broke out of a container could type as root. What
// the account says steers no terminal.
func asWorkload(f Facts, command string) string {
	return fmt.Sprintf(`systemd-run --quiet --collect --wait --pipe --property=KillMode=process --uid=%s --setenv=XDG_RUNTIME_DIR=/run/user/%d %s </dev/null 2>&1 | cat -v`,
		f.Workload, f.Accounts[f.Workload].UID, command)
}

func configuration(f Facts) []Finding {
	finding := Finding{Check: "configuration", Why: "with a configuration that it cannot read the agent does not start"}
	if f.Config != nil {
		return []Finding{finding.failure(f.Config.Error())}
	}
	return []Finding{finding.ok("it can be read")}
}

func accounts(f Facts) []Finding {
	finding := Finding{Check: "accounts", Why: "the agent and the containers run as accounts of their own, so that a container that breaks out finds no device key"}
	if f.Workload == "" {
		return []Finding{finding.unknown("whose podman listens at " + f.Socket.Path + " is not known: " + reason(f.Socket.Exists.Err, "it does not exist"))}
	}
	names := []string{f.Workload}
	if f.Packaged {
		names = []string{agentAccount, f.Workload}
	}
	for _, name := range names {
		account, ok := f.Accounts[name]
		switch {
		case !ok && f.Packaged && f.SetupTool == "":
			return []Finding{finding.failure("the account " + name + " does not exist, and neither does the program that makes it: install the package fleet-agent")}
		case !ok:
			return []Finding{finding.failure("the account " + name + " does not exist").fix(setupCommand(f))}
		case account.Expired:
			return []Finding{finding.failure("the account " + name + " has expired, so systemd starts nothing for it").fix("chage --expiredate -1 " + name)}
		}
	}
	return []Finding{finding.ok(strings.Join(names, " and ") + plural(len(names), " exists", " exist"))}
}

// memberships looks for groups of the account that its processes do not know of yet.
func memberships(f Facts) []Finding {
	account, there := f.Accounts[f.Workload]
	if !there {
		return nil
	}
	finding := Finding{Check: "groups", Why: "containers use a device by a group of " + f.Workload + ", whose processes learn of a further group at its next login"}
	switch {
	case f.Memberships.Err != nil:
		return []Finding{finding.unknown(f.Memberships.Err.Error())}
	case len(f.Memberships.Value) == 0:
		return []Finding{finding.ok(f.Workload + " is in no group of the device")}
	case errors.Is(f.Groups.Err, errNotAsked): // there is no helper for podman of another account
		return nil
	case f.Groups.Err != nil:
		return []Finding{finding.unknown(f.Groups.Err.Error())}
	}
	var all, missing []string
	for _, group := range f.Memberships.Value {
		all = append(all, group.Name)
		if !slices.Contains(f.Groups.Value, group.GID) {
			missing = append(missing, group.Name)
		}
	}
	if len(missing) == 0 {
		return []Finding{finding.ok(f.Workload + " is in " + strings.Join(all, ", "))}
	}
	return []Finding{finding.warning(fmt.Sprintf("%s is in %s, but not since its last login: a new one ends all containers, which the agent starts again",
		f.Workload, strings.Join(missing, ", "))).remedy(fmt.Sprintf("systemctl restart user@%d.service", account.UID))}
}

func setup(f Facts) []Finding {
	if !f.Packaged {
		return nil
	}
	finding := Finding{Check: "setup", Why: "setup-user makes accounts, subordinate ids, linger and podman's socket, at the installation and at each start of the agent"}
	switch {
	case f.SetupTool == "":
		return []Finding{finding.warning(setupTools[0] + " is not installed: install fleet-agent again")}
	case errors.Is(f.Setup.Err, fs.ErrNotExist):
		return []Finding{finding.warning("setup-user has not ended since the device booted").fix(f.SetupTool)}
	case f.Setup.Err != nil:
		return []Finding{finding.unknown(f.Setup.Err.Error())}
	case f.Setup.Value != "":
		return []Finding{finding.failure("setup-user failed: " + f.Setup.Value).fix(f.SetupTool)}
	}
	return []Finding{finding.ok("setup-user succeeded the last time")}
}

func programs(f Facts) []Finding {
	finding := Finding{Check: "programs", Why: "podman maps the ids of containers with newuidmap and newgidmap, which need the rights to do so, and runs them with crun or runc"}
	var missing, powerless, packages []string
	for _, p := range f.Programs {
		switch {
		case p.Path == "":
			missing = append(missing, p.Name)
		case !p.Privileged:
			powerless = append(powerless, p.Path)
		default:
			continue
		}
		packages = append(packages, p.Packages[f.Packages])
	}
	slices.Sort(packages)
	install := installCommand(f.Packages, len(powerless) > 0, slices.Compact(packages))
	switch {
	case len(missing) > 0:
		return []Finding{finding.failure("missing: " + strings.Join(missing, ", ")).remedy(install)}
	case len(powerless) > 0:
		return []Finding{finding.failure("neither setuid root nor with file capabilities: " + strings.Join(powerless, ", ")).remedy(install)}
	}
	return []Finding{finding.ok("podman and what it needs are installed")}
}

func installCommand(manager string, again bool, packages []string) string {
	if manager == "" || len(packages) == 0 {
		return ""
	}
	verb := "install"
	switch {
	case manager == "apt-get":
		verb = "install --reinstall" // also installs what is not there
	case again:
		verb = "reinstall"
	}
	return manager + " " + verb + " -y " + strings.Join(packages, " ")
}

func subordinateIDs(f Facts) []Finding {
	finding := Finding{Check: "subordinate-ids", Why: "a container image may own any of 65,536 ids; with fewer, pulls and starts fail"}
	if f.Workload == "" {
		return []Finding{finding.unknown("the account is not known")}
	}
	for _, ids := range []struct {
		kind  string
		count Fact[int]
	}{{"uids", f.SubUIDs}, {"gids", f.SubGIDs}} {
		switch {
		case ids.count.Err != nil:
			return []Finding{finding.unknown(ids.count.Err.Error())}
		case ids.count.Value < minIDs:
			return []Finding{finding.failure(fmt.Sprintf("%s has %d subordinate %s, and needs %d", f.Workload, ids.count.Value, ids.kind, minIDs)).fix(setupCommand(f))}
		}
	}
	return []Finding{mapped(finding, f)}
}

// mapped compares what the account was given with what podman gets.
func mapped(finding Finding, f Facts) Finding {
	switch {
	case errors.Is(f.Mapped.Err, errNotAsked), errors.Is(f.Mapped.Err, ErrNeedsRoot):
		return finding.ok(f.Workload + " has enough; whether podman gets them was not tried, which needs root")
	case f.Mapped.Err != nil && f.Manager.Err == nil && !f.Manager.Value:
		return finding.unknown("podman was not tried, because systemd does not run for " + f.Workload)
	case f.Mapped.Err != nil && strings.Contains(f.Mapped.Err.Error(), "podman system migrate"):
		// As podman 4.3 after its account's systemd was restarted.
		return finding.failure("podman cannot map ids: " + f.Mapped.Err.Error()).remedy(asWorkload(f, "podman system migrate"))
	case f.Mapped.Err != nil:
		return finding.failure("podman cannot map ids: " + f.Mapped.Err.Error())
	case f.Mapped.Value < minIDs:
		return finding.failure(fmt.Sprintf("podman maps %d ids only: the range came after its first use; the command stops containers, which the agent starts again", f.Mapped.Value)).
			remedy(asWorkload(f, "podman system migrate"))
	}
	return finding.ok(fmt.Sprintf("podman maps %d ids", f.Mapped.Value))
}

func linger(f Facts) []Finding {
	finding := Finding{Check: "linger", Why: "without it systemd ends the account's podman and containers with its last session, and starts none at boot"}
	switch {
	case f.Workload == "":
		return []Finding{finding.unknown("the account is not known")}
	case f.Linger.Err != nil:
		return []Finding{finding.unknown(f.Linger.Err.Error())}
	case !f.Linger.Value:
		return []Finding{finding.failure("it is off for " + f.Workload).fix("loginctl enable-linger " + f.Workload)}
	case f.Manager.Err == nil && !f.Manager.Value:
		start := fmt.Sprintf("systemctl start user@%d.service", f.Accounts[f.Workload].UID)
		return []Finding{finding.failure("it is on, but systemd does not run for " + f.Workload).fix(start)}
	}
	return []Finding{finding.ok("it is on for " + f.Workload)}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// reason is an error's text, or another where there is none.
func reason(err error, otherwise string) string {
	if err != nil {
		return err.Error()
	}
	return otherwise
}
