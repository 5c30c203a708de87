package doctor

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/store"
)

const (
	// maxAhead is how far the clock may be off: certificates of registries are
	// rarely younger, and log lines can still be compared.
	maxAhead = 5 * time.Minute
	// renewalGrace is how long after its time a renewal may still be under way:
	// the agent tries again at least every six hours.
	renewalGrace = 24 * time.Hour
	// restart makes the agent try at once what it would try again later.
	restart = "systemctl restart fleet-agent"
)

func certificate(f Facts) []Finding {
	finding := Finding{Check: "certificate", Why: "the device proves itself to the server with it"}
	id := f.Identity.Value
	switch {
	case errors.Is(f.Identity.Err, store.ErrNoIdentity):
		return []Finding{finding.failure(f.Identity.Err.Error()).remedy("fleet-agent enroll --server https://GATEWAY:8443 --token-file FILE")}
	case f.Identity.Err != nil:
		return []Finding{finding.unknown(f.Identity.Err.Error())}
	case id.Problem != nil:
		return []Finding{finding.failure(id.Problem.Error()).remedy("fleet-agent enroll --force --server https://GATEWAY:8443 --token-file FILE")}
	}
	return []Finding{validity(finding, f)}
}

// validity judges by the server's time where it is known: that is what the
// server judges by.
func validity(finding Finding, f Facts) Finding {
	now := f.now()
	id := f.Identity.Value
	until := id.NotAfter.UTC().Format(time.DateTime) + " UTC"
	because := ""
	if text := f.Agent.Value.RenewalError; f.Agent.Err == nil && text != "" {
		because = "; the last renewal failed: " + text
	}
	switch {
	case now.Before(id.NotBefore):
		return finding.warning("by this device's clock it is not valid yet: see clock")
	case now.After(id.NotAfter):
		return finding.failure("it expired at " + until + ", and is renewed as soon as the enrollment address answers" + because).remedy(restart)
	case now.After(id.Renewal.Add(renewalGrace)):
		return finding.warning("it was due to be renewed at " + id.Renewal.UTC().Format(time.DateTime) + " UTC, and expires at " + until + because).remedy(restart)
	}
	return finding.ok("device " + id.Device + ", until " + until + "; to be renewed from " + id.Renewal.UTC().Format(time.DateTime) + " UTC")
}

// now is the best time that is known.
func (f Facts) now() time.Time {
	if f.Ahead.Err == nil {
		return f.Now.Add(-f.Ahead.Value)
	}
	return f.Now
}

func clocks(f Facts) []Finding {
	const set = "timedatectl set-ntp true"
	finding := Finding{Check: "clock", Why: "registries are refused, and logs mislead, by a wrong clock; the agent's own connection works all the same"}
	ahead := f.Ahead.Value.Round(time.Second)
	if ahead.Abs() > maxAhead {
		ahead = ahead.Round(time.Minute)
	}
	switch {
	case f.Ahead.Err == nil && ahead > maxAhead:
		return []Finding{finding.warning(fmt.Sprintf("it is %s ahead of the server's", ahead)).remedy(set)}
	case f.Ahead.Err == nil && -ahead > maxAhead:
		return []Finding{finding.warning(fmt.Sprintf("it is %s behind the server's", -ahead)).remedy(set)}
	case f.Ahead.Err == nil:
		return []Finding{finding.ok(fmt.Sprintf("it agrees with the server's to %s", max(ahead.Abs(), time.Second)))}
	case f.Now.Before(f.GoodTime):
		return []Finding{finding.warning("it says " + f.Now.UTC().Format(time.DateTime) + " UTC, but " + f.GoodTime.UTC().Format(time.DateTime) + " UTC has passed already").remedy(set)}
	}
	return []Finding{finding.unknown("the server's time was not learned: " + f.Ahead.Err.Error())}
}

func agentRuns(f Facts) []Finding {
	finding := Finding{Check: "agent", Why: "it fetches what the device is to run, and reports; containers go on without it"}
	s := f.Agent.Value
	switch {
	case errors.Is(f.Identity.Err, store.ErrNoIdentity):
		return []Finding{finding.unknown("the device is not enrolled, so there is nothing to run")}
	case errors.Is(f.Agent.Err, control.ErrNotRunning):
		return []Finding{finding.failure(f.Agent.Err.Error()).remedy("systemctl enable --now fleet-agent")}
	case f.Agent.Err != nil:
		return []Finding{finding.unknown(f.Agent.Err.Error())}
	case s.Standing != "":
		return []Finding{finding.failure(s.Standing)}
	}
	return []Finding{finding.ok("version " + s.AgentVersion + " runs")}
}

func servers(f Facts) []Finding {
	enrollment := Finding{Check: "server-enrollment", Why: "certificates are renewed at this address"}
	connection := Finding{Check: "server-connection", Why: "without it the device goes on with what it was last told"}
	if s := f.Agent.Value; f.Agent.Err == nil && s.Connected {
		connection = connection.ok("the agent is connected to " + s.Server)
	} else {
		connection = reached(connection, f.Connection)
		if f.Agent.Err == nil && connection.State == OK {
			connection = connection.failure(connection.Message + ", but the agent is not connected: " + s.LastError).remedy(restart)
		}
	}
	return []Finding{reached(enrollment, f.Enrollment), connection}
}

// reached is satisfied with one server of several.
func reached(finding Finding, attempts []Attempt) Finding {
	if len(attempts) == 0 {
		return finding.unknown("no address is known")
	}
	for _, a := range attempts {
		if a.Err == nil {
			return finding.ok(a.Address + " answers")
		}
	}
	message := ""
	for _, a := range attempts {
		if message != "" {
			message += "; "
		}
		message += a.Address + ": " + a.Err.Error()
	}
	return finding.failure(message)
}

// repository is silent where packages do not come from the gateway.
func repository(f Facts) []Finding {
	if len(f.RepositoryRoots)+len(f.OldRepository) == 0 {
		return nil
	}
	finding := Finding{Check: "repository", Why: "the package manager gets upgrades of the agent from the gateway"}
	// The hash has to come from the gateway: what the agent's account can write must
	// not decide whose packages root installs.
	const command, hash = "fleet-agent add-repository https://GATEWAY:8443 --ca-hash HASH", "HASH is the second part of a new token"
	if len(f.OldRepository) > 0 {
		return []Finding{finding.warning(f.OldRepository[0] + " is of an earlier version, with which the gateway can make root install what it likes: say again where packages come from; " + hash).remedy(command)}
	}
	id := f.Identity.Value
	if f.Identity.Err != nil || id.RootHash == "" {
		return []Finding{finding.unknown("the fleet's root is not known")}
	}
	for _, file := range slices.Sorted(maps.Keys(f.RepositoryRoots)) {
		if !slices.Contains(f.RepositoryRoots[file], id.RootHash) {
			return []Finding{finding.warning(file + " is not the fleet's present root: the gateway will soon not be believed; " + hash).remedy(command)}
		}
	}
	return []Finding{finding.ok("the package manager trusts the fleet's present root")}
}
