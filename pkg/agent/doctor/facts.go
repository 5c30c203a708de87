package doctor

import (
	"errors"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
)

// Accounts of the packages.
const (
	agentAccount    = "fleet-agent"
	workloadAccount = "fleet-workload"
)

// Reasons why something is not known.
var (
	// ErrNeedsRoot: only root may look at it.
	ErrNeedsRoot = errors.New("needs root")
	// errNotUnit: the agent was not installed as a unit of the system.
	errNotUnit   = errors.New("the agent is no unit of the system")
	errNoAccount = errors.New("the account does not exist")
	// errNotAsked: a fact that Local alone does not find out.
	errNotAsked = errors.New("was not looked at")
)

// Fact is something about the device, or why it is not known.
type Fact[T any] struct {
	Value T
	Err   error
}

func known[T any](v T) Fact[T]           { return Fact[T]{Value: v} }
func unknownFact[T any](e error) Fact[T] { return Fact[T]{Err: e} }

// Facts are what is known of a device.
type Facts struct {
	// Config says what is wrong with agent.yaml, or is nil.
	Config error
	// Workload is the account whose podman runs the containers. Packaged: it is
	// the one that the packages make.
	Workload string
	Packaged bool
	// Accounts has those that exist, by name.
	Accounts map[string]Account
	// SetupTool is the path of setup-user; empty when it is not installed.
	SetupTool string
	// Setup is what setup-user said when it failed the last time, empty when it
	// succeeded. The error is fs.ErrNotExist when it has not ended since the boot.
	Setup Fact[string]
	// Programs are those that rootless podman needs.
	Programs []Program
	// Packages is the package manager: apt-get, dnf, or "".
	Packages string
	// SubUIDs and SubGIDs are the lengths of the longest ranges.
	SubUIDs, SubGIDs Fact[int]
	// Memberships are the groups of the device that the account is in. Groups are the numbers
	// of those that its processes have: they learn of others at the account's next login.
	Memberships Fact[[]Group]
	Groups      Fact[[]uint32]
	// Privileges are what agent.yaml lets containers have of the device, key by key.
	Privileges []string
	// Mapped are the ids that podman really gets: the smaller of uids and gids.
	Mapped Fact[int]
	// Linger: systemd starts the account's units at boot. Manager: they run now.
	Linger, Manager Fact[bool]
	// SocketEnabled: systemd opens podman's socket for the account from its start on.
	SocketEnabled Fact[bool]
	// AgentEnabled: systemd starts the agent at boot; errNotUnit where it is no unit.
	AgentEnabled Fact[bool]
	Cgroup       Cgroup
	Socket       Socket
	// Helper: the helper of the account answers.
	Helper Fact[bool]
	// NamesLost: podman's server of names has ended.
	NamesLost Fact[bool]
	// Interpreters are the programs that run workloads of other types than the agent's own.
	Interpreters Fact[[]Interpreter]
	// Roots are those of bindRoots below which nothing can be mounted, Directories the
	// agent's own with which something is wrong.
	Roots       Fact[[]bind.Trouble]
	Directories Fact[[]Directory]
	// Podman is what podman says of itself over its socket.
	Podman Fact[container.Info]
	Disks  []Disk
	// Now is the system's clock.
	Now time.Time
	// GoodTime is a time that has passed for certain; zero when there is none.
	GoodTime time.Time
	// Ahead is by how much the system's clock is ahead of the server's.
	Ahead    Fact[time.Duration]
	Identity Fact[Identity]
	// Agent is what the running agent says of itself.
	Agent Fact[control.Status]
	// Proxy is nil where connections leave the device without one.
	Proxy *Proxy
	// RepositoryRoots are the hashes of the keys of the roots that package managers
	// trust for the gateway, by file.
	RepositoryRoots map[string][]string
	// OldRepository are files for package managers that an earlier version wrote.
	OldRepository []string
	// Enrollment and Connection are attempts to reach the server.
	Enrollment, Connection []Attempt
}

// Interpreter is a program that is registered as one.
type Interpreter struct {
	// Name is that of its registration, or the file of one that is not taken.
	Name string
	// Problem is why it is not used, or does not answer; nil for nothing.
	Problem error
	// Unit is its unit without the ending, and of the same name its socket unit, if they are
	// of the agent's own package.
	Unit string
}

// Account is an account of the system.
type Account struct {
	UID, GID int
	Home     string
	// Expired: the account is not valid any more, so systemd starts nothing for it.
	Expired bool
}

// Group is a group of the system.
type Group struct {
	Name string
	GID  uint32
}

// Program is one that podman needs.
type Program struct {
	Name string
	// Path is where it is; empty when it is nowhere.
	Path string
	// Privileged: it has the rights that its work needs, if it needs any.
	Privileged bool
	// Packages are what brings it, by package manager.
	Packages map[string]string
}

// Cgroup is what the kernel and systemd let the account's containers be limited by.
type Cgroup struct {
	// Unified: version 2 alone is mounted.
	Unified bool
	// Kernel are the controllers of the root, Delegated those of the account.
	Kernel    []string
	Delegated Fact[[]string]
	// Legacy are controllers that a version 1 hierarchy holds.
	Legacy []string
	// CommandLine is the kernel's, Board the name of the board, if it has one.
	CommandLine, Board string
	// BootFile is where the kernel's command line is set on a Raspberry Pi.
	BootFile string
}

// Socket is where podman listens.
type Socket struct {
	Path string
	// Exists and the directory's permissions may not be visible to others.
	Exists Fact[bool]
	// Open: accounts beside the two can enter the directory.
	Open bool
}

// Disk is a file system.
type Disk struct {
	// Name says what lies there.
	Name, Path string
	facts.FileSystem
}

// Identity is what the device proves itself with.
type Identity struct {
	Device string
	// Problem says why the identity cannot be used, or is nil.
	Problem error
	// NotBefore and NotAfter bound the certificate, Renewal is when it is due.
	NotBefore, NotAfter, Renewal time.Time
	// RootHash is the hash of the key of the fleet's present root, as in a token.
	RootHash string
}

// Proxy is the way to the servers and to registries.
type Proxy struct {
	// Name is its address, and who named it.
	Name string
	// Spare: what it refuses is tried without it.
	Spare bool
	// Attempts are those to reach servers through it; none where all of them are
	// reached without it.
	Attempts []Attempt
	// Given: podman was told of the same proxy at the last start of the agent.
	Given Fact[bool]
	// Exposed is a file with its password that every account can read; "" for none.
	Exposed string
	// Hide is the command that makes it unreadable for others.
	Hide string
}

// Attempt is one at reaching a server.
type Attempt struct {
	Address string
	Err     error
}
