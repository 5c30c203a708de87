package doctor

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// setupStatus is where setup-user leaves its one line when it failed, and an
// empty file when it succeeded. It is gone after a boot, as /run is.
const setupStatus = "run/fleet-agent-setup.status"

// maxFile bounds what is read of a file, in bytes.
const maxFile = 1 << 20

// Local reads what files tell, with no rights beyond reading them. All fields
// are mandatory but for Workload and what is said about repositories.
type Local struct {
	// Root is "/" outside of tests.
	Root string
	// Workload is the account whose podman is used; "" when it is not known.
	Workload string
	// Socket is where podman listens.
	Socket string
	// Lookup finds accounts: user.Lookup outside of tests.
	Lookup func(name string) (*user.User, error)
	// RepositoryRoots are the files with the gateway's root for package managers;
	// may be empty.
	RepositoryRoots []string
	// RepositoryForm are texts that files for package managers should have, by a
	// file that is there if they are used; may be empty.
	RepositoryForm map[string]map[string]string
}

// Read reads the facts. What Local does not find out has an error.
func (l Local) Read() Facts {
	f := Facts{Workload: l.Workload, Packaged: l.Workload == workloadAccount, Now: time.Now(), Accounts: map[string]Account{}}
	if i := slices.IndexFunc(setupTools, l.exists); i >= 0 {
		f.SetupTool = setupTools[i]
	}
	f.Setup = l.setup()
	for _, name := range []string{agentAccount, l.Workload} {
		if account, ok := l.account(name); ok {
			f.Accounts[name] = account
		}
	}
	f.Packages = l.packageManager()
	f.Programs = l.programs()
	f.Memberships.Value, f.Memberships.Err = l.memberships()
	f.Socket = l.socket()
	f.Cgroup = l.cgroup()
	f.SubUIDs, f.SubGIDs = unknownFact[int](errNoAccount), unknownFact[int](errNoAccount)
	f.Linger, f.Manager, f.SocketEnabled = unknownFact[bool](errNoAccount), unknownFact[bool](errNoAccount), unknownFact[bool](errNoAccount)
	f.Cgroup.Delegated = unknownFact[[]string](errNoAccount)
	if account, ok := f.Accounts[l.Workload]; ok {
		f.SubUIDs, f.SubGIDs = l.subordinateIDs("etc/subuid", account), l.subordinateIDs("etc/subgid", account)
		f.Linger = l.lingers()
		f.SocketEnabled = l.socketEnabled(account)
		f.Manager, f.Cgroup.Delegated = l.manager(account, f.Cgroup)
	}
	f.AgentEnabled = l.agentEnabled()
	f.RepositoryRoots = map[string][]string{}
	for _, name := range l.RepositoryRoots {
		if text, err := l.tryRead(name); err == nil {
			f.RepositoryRoots[name] = rootHashes(text)
		}
	}
	f.OldRepository = l.oldRepository()
	l.leaveToProbe(&f)
	return f
}

// oldRepository names the files that lack what they should have.
func (l Local) oldRepository() []string {
	var old []string
	for used, form := range l.RepositoryForm {
		if !l.exists(used) {
			continue
		}
		for file, text := range form {
			if !strings.Contains(l.read(file), text) {
				old = append(old, file)
			}
		}
	}
	slices.Sort(old)
	return old
}

// rootHashes are the SHA-256 of the public keys of certificates in PEM, in hex.
func rootHashes(text string) []string {
	var hashes []string
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			hashes = append(hashes, wire.Sum(c.RawSubjectPublicKeyInfo).String())
		}
	}
	return hashes
}

// leaveToProbe marks what takes more than files.
func (Local) leaveToProbe(f *Facts) {
	f.NamesLost.Err, f.Interpreters.Err, f.Groups.Err = errNotAsked, errNotAsked, errNotAsked
	f.Helper.Err, f.Roots.Err, f.Directories.Err = errNotAsked, errNotAsked, errNotAsked
	f.Mapped.Err, f.Podman.Err, f.Ahead.Err, f.Identity.Err, f.Agent.Err = errNotAsked, errNotAsked, errNotAsked, errNotAsked, errNotAsked
}

func (l Local) path(name string) string { return filepath.Join(l.Root, name) }

func (l Local) exists(name string) bool {
	_, err := os.Stat(l.path(name))
	return err == nil
}

// read returns the content of a file, or "" when it cannot be read.
func (l Local) read(name string) string {
	text, _ := l.tryRead(name)
	return text
}

func (l Local) tryRead(name string) (string, error) {
	info, err := os.Stat(l.path(name))
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(l.path(name))
	return string(data), err
}

func (l Local) setup() Fact[string] {
	text, err := l.tryRead(setupStatus)
	return Fact[string]{Value: strings.TrimSpace(text), Err: err}
}

func (l Local) account(name string) (Account, bool) {
	if name == "" {
		return Account{}, false
	}
	u, err := l.Lookup(name)
	if err != nil {
		return Account{}, false
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if uidErr != nil || gidErr != nil {
		return Account{}, false
	}
	return Account{UID: uid, GID: gid, Home: u.HomeDir, Expired: l.expired(name)}, true
}

// expired looks at the day on which an account expires, which root alone may.
func (l Local) expired(name string) bool {
	for line := range strings.Lines(l.read("etc/shadow")) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 8 || fields[0] != name {
			continue
		}
		day, err := strconv.ParseInt(fields[7], 10, 64)
		return err == nil && time.Now().Unix()/(24*60*60) >= day
	}
	return false
}

func (l Local) packageManager() string {
	for _, manager := range []string{"apt-get", "dnf"} {
		if l.exists("usr/bin/" + manager) {
			return manager
		}
	}
	return ""
}

// subordinateIDs returns the length of the account's longest range in a file.
func (l Local) subordinateIDs(file string, account Account) Fact[int] {
	if source := l.subIDSource(); source != "" && source != "files" {
		return unknownFact[int](fmt.Errorf("nsswitch.conf takes subordinate ids from %q: run fleet-agent doctor as root", source))
	}
	text, err := l.tryRead(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknownFact[int](err)
	}
	longest := 0
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || fields[0] != l.Workload && fields[0] != strconv.Itoa(account.UID) {
			continue
		}
		if n, err := strconv.Atoi(fields[2]); err == nil {
			longest = max(longest, n)
		}
	}
	return known(longest)
}

// subIDSource is what nsswitch.conf names; "" is the files.
func (l Local) subIDSource() string {
	for line := range strings.Lines(l.read("etc/nsswitch.conf")) {
		line, _, _ = strings.Cut(line, "#")
		if source, ok := strings.CutPrefix(strings.TrimSpace(line), "subid:"); ok {
			return strings.TrimSpace(source)
		}
	}
	return ""
}

func (l Local) lingers() Fact[bool] {
	_, err := os.Stat(l.path("var/lib/systemd/linger/" + l.Workload))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknownFact[bool](err)
	}
	return known(err == nil)
}

func (l Local) cgroup() Cgroup {
	g := Cgroup{
		Unified:     l.exists("sys/fs/cgroup/cgroup.controllers"),
		Kernel:      strings.Fields(l.read("sys/fs/cgroup/cgroup.controllers")),
		CommandLine: l.read("proc/cmdline"),
		Board:       strings.Trim(l.read("proc/device-tree/model"), "\x00\n"),
	}
	for line := range strings.Lines(l.read("proc/cgroups")) { // name, hierarchy, cgroups, enabled
		if fields := strings.Fields(line); len(fields) == 4 && fields[0] != "#subsys_name" && fields[1] != "0" {
			g.Legacy = append(g.Legacy, fields[0])
		}
	}
	for _, file := range []string{"/boot/firmware/cmdline.txt", "/boot/cmdline.txt"} {
		if l.exists(file) {
			g.BootFile = file
			break
		}
	}
	return g
}

// manager looks for the cgroup of the account's systemd, and at what that may use.
func (l Local) manager(account Account, g Cgroup) (runs Fact[bool], delegated Fact[[]string]) {
	if !g.Unified {
		err := errors.New("cgroup version 2 is not mounted at /sys/fs/cgroup")
		return unknownFact[bool](err), unknownFact[[]string](err)
	}
	text, err := l.tryRead(fmt.Sprintf("sys/fs/cgroup/user.slice/user-%d.slice/user@%[1]d.service/cgroup.controllers", account.UID))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return known(false), unknownFact[[]string](fmt.Errorf("systemd does not run for %s", l.Workload))
	case err != nil:
		return unknownFact[bool](err), unknownFact[[]string](err)
	}
	return known(true), known(strings.Fields(text))
}

func (l Local) socket() Socket {
	s := Socket{Path: l.Socket, Exists: known(true)}
	// Not Stat: the account could lead it to a file system that hangs.
	if _, err := os.Lstat(l.path(l.Socket)); errors.Is(err, fs.ErrNotExist) {
		s.Exists = known(false)
	} else if err != nil {
		s.Exists = unknownFact[bool](errors.Unwrap(err))
	}
	if dir, err := os.Stat(l.path(filepath.Dir(l.Socket))); err == nil {
		s.Open = dir.Mode().Perm()&0o007 != 0
	}
	return s
}
