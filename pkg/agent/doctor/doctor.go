// Package doctor finds out whether a device has what rootless containers and
// the connection to its server need, and says what fixes what is missing.
//
// Three parts, so that the rules can be tested without a broken machine:
//
//	Local and Probe  read the machine, into Facts
//	Examine          is pure: Facts in, Findings out
//	Repair           runs the commands of findings that are safe to fix
//
// Local reads files alone and needs no rights: the running agent uses it too,
// and shows what follows as conditions of its Device, see Conditions.
package doctor

import (
	"cmp"
	"slices"
)

// State is the verdict about one thing. The order is that of their weight.
type State string

// Values of State.
const (
	// OK: nothing to do.
	OK State = "ok"
	// Unknown: it could not be looked at; the message says why.
	Unknown State = "unknown"
	// Warning: containers run, but something that was asked for does not work, or
	// will stop working.
	Warning State = "warning"
	// Failure: containers do not run, or the server is not reached.
	Failure State = "failure"
)

var weights = []State{OK, Unknown, Warning, Failure}

func (s State) weight() int { return slices.Index(weights, s) }

// Finding is what is to be said about one thing.
type Finding struct {
	// Check names what was looked at, in words with hyphens; see the list in
	// docs/reference/commands.md.
	Check string `json:"check"`
	State State  `json:"state"`
	// Message says what was found.
	Message string `json:"message"`
	// Why says what it is needed for.
	Why string `json:"why"`
	// Command fixes it, in a root shell; empty when no command does.
	Command string `json:"command,omitempty"`
	// Fixable: Command is safe, so Repair runs it.
	Fixable bool `json:"fixable"`
}

// ok, unknown, warning and failure complete a finding.
func (f Finding) ok(message string) Finding      { return f.with(OK, message) }
func (f Finding) unknown(message string) Finding { return f.with(Unknown, message) }
func (f Finding) warning(message string) Finding { return f.with(Warning, message) }
func (f Finding) failure(message string) Finding { return f.with(Failure, message) }

func (f Finding) with(s State, message string) Finding {
	f.State, f.Message = s, message
	return f
}

// remedy adds the command that fixes the finding.
func (f Finding) remedy(command string) Finding {
	f.Command = command
	return f
}

// fix adds a command that Repair may run: one that removes nothing.
func (f Finding) fix(command string) Finding {
	f.Command, f.Fixable = command, command != ""
	return f
}

// Report is everything that was found.
type Report struct {
	// State is the worst of the findings'.
	State    State     `json:"state"`
	Findings []Finding `json:"findings"`
	// Repairs are the commands that were run, in order.
	Repairs []Repair `json:"repairs,omitempty"`
}

// Examine draws the conclusions from what is known of a device.
func Examine(f Facts) Report {
	r := Report{State: OK}
	for _, check := range []func(Facts) []Finding{
		configuration, accounts, setup, programs, subordinateIDs, memberships, linger, controllers, podmanSocket, Settings, privileges, networks, interpreters, storageDriver, disks,
		certificate, clocks, agentRuns, throughProxy, servers, repository,
	} {
		r.Findings = append(r.Findings, check(f)...)
	}
	for _, finding := range r.Findings {
		r.State = slices.MaxFunc([]State{r.State, finding.State}, func(a, b State) int { return cmp.Compare(a.weight(), b.weight()) })
	}
	return r
}
