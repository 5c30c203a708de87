package hostinstall

import "context"

// Removal is what an operator decides about an uninstallation.
type Removal struct {
	// Purge removes data, identity and configuration too.
	Purge bool
	// Volumes removes volumes of containers that hold something; with Purge.
	Volumes bool
}

// Uninstall undoes Install. Data and configuration stay, unless they are purged;
// what somebody edited stays in any case. A package has to be removed by its
// package manager afterwards.
func (in *Installer) Uninstall(ctx context.Context, r Removal) error {
	if err := in.begin(ctx); err != nil {
		return err
	}
	f := in.known()
	p := f.planRemoval(r)
	if in.DryRun {
		for _, line := range f.announced(p, r) {
			in.say("%s", line)
		}
		return nil
	}
	return in.doAll(ctx, p.steps)
}
