package doctor

// throughProxy is silent where there is no proxy.
func throughProxy(f Facts) []Finding {
	p := f.Proxy
	if p == nil {
		return nil
	}
	finding := Finding{Check: "proxy", Why: "the agent reaches the server through it, and podman the registries"}
	for _, a := range p.Attempts {
		switch {
		case a.Err != nil && p.Spare:
			return []Finding{finding.warning(a.Err.Error() + "; the agent goes on to try without it, and podman does not")}
		case a.Err != nil:
			return []Finding{finding.failure(a.Err.Error())}
		}
	}
	switch {
	case p.Exposed != "":
		return []Finding{finding.warning("every account of this device can read the password of the proxy in " + p.Exposed).fix(p.Hide)}
	case p.Given.Err == nil && !p.Given.Value && f.Packaged:
		return []Finding{finding.warning("the proxy " + p.Name + " is not what podman was told at the last start of the agent").remedy(restart)}
	case len(p.Attempts) == 0:
		return []Finding{finding.ok("the servers are reached without the proxy " + p.Name + ", and registries through it")}
	}
	return []Finding{finding.ok("the proxy " + p.Name + " connects to " + p.Attempts[0].Address)}
}
