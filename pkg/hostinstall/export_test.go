package hostinstall

import "strings"

// Known is a host that tests plan for: what is known of it, and nothing that
// could be changed.
type Known struct {
	Product Product
	// Version, DataDir and Files are what the manifest has; Files by path are
	// contents that were written here.
	Version, DataDir string
	Files            map[string][]string
	Packaged, Booted bool
	Config           string
	// Has are the contents of the files that are there.
	Has map[string]string
	// Data and Strange are directories with a server's data, and with other things.
	Data, Strange string
}

func (k Known) facts() facts {
	f := facts{product: k.Product, packaged: k.Packaged, booted: k.Booted, config: []byte(k.Config), holds: map[string]content{k.Strange: strange, k.Data: data}}
	f.manifest = manifest{Version: k.Version, DataDir: k.DataDir, Files: map[string][]string{}}
	for path, contents := range k.Files {
		for _, c := range contents {
			f.manifest.Files[path] = append(f.manifest.Files[path], sumOfText(c))
		}
	}
	return f
}

// PlanInstall plans to install a version whose program has a content.
func (k Known) PlanInstall(o Options, program, version string) ([]string, error) {
	f := k.facts()
	if err := f.refusePath(o.DataDir); err != nil {
		return nil, err
	}
	if err := f.refuseContent(o.DataDir); err != nil {
		return nil, err
	}
	files, err := f.wanted(o, program)
	if err != nil {
		return nil, err
	}
	var all []planned
	for _, w := range files {
		sum := sumOfText(string(w.content))
		if w.source != "" {
			sum = sumOfText(w.source)
		}
		present := ""
		if content, ok := k.Has[w.path]; ok {
			present = sumOfText(content)
		}
		all = append(all, planned{file: w, sum: sum, verdict: f.manifest.decide(w.path, present, sum)})
	}
	p, err := f.planInstall(o, version, all)
	lines := p.lines()
	if p.replaces {
		lines = append(lines, "with a way back")
	}
	return lines, err
}

// PlanRemoval plans a removal; the second list is what a dry run prints.
func (k Known) PlanRemoval(r Removal) (steps, announced []string) {
	f := k.facts()
	p := f.planRemoval(r)
	return p.lines(), f.announced(p, r)
}

func (p *plan) lines() []string {
	var lines []string
	for _, s := range p.steps {
		lines = append(lines, s.String())
	}
	return lines
}

func sumOfText(text string) string {
	sum, _ := sumOf(strings.NewReader(text)) // a string never fails
	return sum
}

// Fate is what becomes of an interrupted upgrade in a phase: new, on, back or over.
func Fate(phaseName string, active, changed, ready, replaced bool) string {
	var u *upgrade
	if phaseName != "" {
		u = &upgrade{Phase: phase(phaseName)}
	}
	f := u.fate(since{active: active, changed: changed, ready: ready, replaced: replaced})
	return map[fate]string{fateNew: "new", fateOn: "on", fateBack: "back", fateOver: "over"}[f]
}
