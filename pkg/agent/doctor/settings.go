package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
	"fleet.nationtech.io/fleet/pkg/rights"
)

// Directory is one of the agent's own with which something is wrong.
type Directory struct {
	Problem string
	// Open: the agent can use it, but others can, too.
	Open bool
	// Command puts it right, in a root shell; empty when none does.
	Command string
}

// rootTimeout bounds what is asked of the helper and of file systems.
const rootTimeout = 2 * diskTimeout

// ReadSettings reads the facts that Settings needs.
func (p Probe) ReadSettings(ctx context.Context, f *Facts) {
	f.Helper = p.askHelper(ctx)
	f.Roots = p.roots(f)
	f.Directories = p.directories(f)
}

func (p Probe) askHelper(ctx context.Context) Fact[bool] {
	ctx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	if err := p.Helper(ctx); errors.Is(err, fs.ErrPermission) {
		return unknownFact[bool](ErrNeedsRoot)
	} else if err != nil {
		return unknownFact[bool](err)
	}
	return known(true)
}

// roots looks with the rights of the account that mounts, also where the helper does not.
func (p Probe) roots(f *Facts) Fact[[]bind.Trouble] {
	if errors.Is(f.Helper.Err, ErrNeedsRoot) && len(p.Binds.Roots) > 0 {
		return unknownFact[[]bind.Trouble](ErrNeedsRoot)
	}
	list, err := within(rootTimeout, func() (list []bind.Trouble, err error) {
		err = as(f, f.Workload, func() error { list = p.Binds.Troubles(); return nil })
		return list, err
	})
	return Fact[[]bind.Trouble]{Value: list, Err: err}
}

// as does something with the rights of an account to files, if this process may.
func as(f *Facts, name string, do func() error) error {
	account, ok := f.Accounts[name]
	if !ok || os.Geteuid() != 0 {
		return do()
	}
	return rights.Account{UID: account.UID, GID: account.GID}.As(do)
}

// directories looks with the agent's rights.
func (p Probe) directories(f *Facts) Fact[[]Directory] {
	account, packaged := f.Accounts[agentAccount]
	packaged = packaged && f.Packaged
	uid := os.Geteuid()
	switch {
	case packaged && uid != 0 && uid != account.UID:
		return unknownFact[[]Directory](ErrNeedsRoot)
	case packaged:
		uid = account.UID
	}
	name := ""
	if packaged {
		name = agentAccount
	}
	var list []Directory
	err := as(f, name, func() error {
		list = append(configDirectory(p.path(p.ConfigPath)), stateDirectory(p.path(p.Config.StateDir), uid)...)
		return nil
	})
	return Fact[[]Directory]{Value: list, Err: err}
}

// configDirectory: a configuration that is not there is another check's affair.
func configDirectory(path string) []Directory {
	real, err := trail.Follow(trail.Here{}, path, nil)
	if lost, ok := errors.AsType[*trail.Error](err); ok && lost.Fault == trail.Denied {
		return []Directory{{Problem: "the agent " + bind.Closed(lost), Command: "chmod o+x " + bind.Quote(lost.Dir)}}
	}
	if err != nil {
		return nil
	}
	file, err := os.Open(real)
	if errors.Is(err, fs.ErrPermission) {
		e := trail.Here{}.Lstat(real)
		return []Directory{{
			Problem: fmt.Sprintf("the agent may not read %s, which has mode %04o and belongs to uid %d", real, e.Perm(), e.UID), Command: "chmod 0644 " + bind.Quote(real),
		}}
	}
	if err == nil {
		file.Close()
	}
	return nil
}

// stateDirectory: one that is not there is made by enrollment.
func stateDirectory(path string, uid int) []Directory {
	real, err := trail.Follow(trail.Here{}, path, nil)
	if lost, ok := errors.AsType[*trail.Error](err); ok && lost.Fault == trail.Denied {
		return []Directory{{Problem: "the agent " + bind.Closed(lost), Command: "chmod o+x " + bind.Quote(lost.Dir)}}
	}
	if err != nil {
		return nil
	}
	const wanted = 0o700
	switch e := (trail.Here{}).Lstat(real); {
	case e.UID != uint32(uid): //nolint:gosec // ids are positive
		return []Directory{{Problem: fmt.Sprintf("%s belongs to uid %d, and the agent is uid %d", real, e.UID, uid), Command: fmt.Sprintf("chown -R %d %s", uid, bind.Quote(real))}}
	case e.Perm()&wanted != wanted:
		return []Directory{{Problem: fmt.Sprintf("%s has mode %04o, so that the agent cannot use it", real, e.Perm()), Command: "chmod 0700 " + bind.Quote(real)}}
	case e.Perm() != wanted:
		return []Directory{{Problem: fmt.Sprintf("%s has mode %04o, so that others can use it", real, e.Perm()), Open: true, Command: "chmod 0700 " + bind.Quote(real)}}
	}
	return nil
}
