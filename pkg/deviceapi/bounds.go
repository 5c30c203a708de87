package deviceapi

import "fleet.nationtech.io/fleet/pkg/wire"

// maxForeignReports is how many reports of a device are kept although its
// manifest does not name their Deployments. An honest device has some while one
// manifest replaces another; without a bound one device could fill the bucket
// for all.
const maxForeignReports = wire.MaxEntries

// checkReport refuses a report that would go beyond maxForeignReports.
func (s *Server) checkReport(device string, state wire.DeploymentState) error {
	if state.Phase == wire.PhaseRemoved || s.Roster.CountReported(device) < maxForeignReports {
		return nil
	}
	manifest, err := s.Manifests.Manifest(device)
	if err != nil {
		return nil //nolint:nilerr // nobody can tell at the moment
	}
	if _, ok := manifest.Find(state.DeploymentRef); ok {
		return nil
	}
	return &wire.Refusal{Code: wire.RefusedNotFound, Message: "the manifest of this device does not name this Deployment, and it has reported about too many such: fetch a snapshot"}
}
