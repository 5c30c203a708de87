package rpmrepo

import (
	"strconv"
	"strings"

	"github.com/sassoftware/go-rpmutils"
)

// header reads a package's header. A tag that is missing is empty.
type header struct{ *rpmutils.RpmHeader }

func (h *header) text(tag int) string {
	values, err := h.GetStrings(tag)
	if err != nil || len(values) == 0 {
		return ""
	}
	return values[0]
}

func (h *header) texts(tag int) []string {
	values, err := h.GetStrings(tag)
	if err != nil {
		return nil
	}
	return values
}

func (h *header) number(tag int) int {
	values, err := h.GetInts(tag)
	if err != nil || len(values) == 0 {
		return 0
	}
	return values[0]
}

func (h *header) numbers(tag int) []int {
	values, err := h.GetInts(tag)
	if err != nil {
		return nil
	}
	return values
}

// Tags that the library does not name.
const (
	tagObsoleteName   = 1090
	tagRecommendName  = 5046
	tagSuggestName    = 5049
	tagSupplementName = 5052
	tagEnhanceName    = 5055
)

func packageOf(h *header, o origin, sum string) (primaryPackage, filelistsPackage, error) {
	nevra, err := h.GetNEVRA()
	if err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	files, err := h.GetFiles()
	if err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	installed, err := h.InstalledSize()
	if err != nil {
		return primaryPackage{}, filelistsPackage{}, err
	}
	list := fileList(files)
	v := version{Epoch: nevra.Epoch, Version: nevra.Version, Release: nevra.Release}
	if v.Epoch == "" {
		v.Epoch = "0"
	}
	where := h.GetRange()
	p := primaryPackage{
		Type: "rpm", Name: nevra.Name, Arch: nevra.Arch, Version: v,
		Checksum: packageChecksum{"sha256", "YES", sum},
		Summary:  h.text(rpmutils.SUMMARY), Description: h.text(rpmutils.DESCRIPTION),
		Packager: h.text(rpmutils.PACKAGER), URL: h.text(rpmutils.URL),
		Time:     times{File: o.date.Unix(), Build: h.number(rpmutils.BUILDTIME)},
		Size:     sizes{Package: o.size, Installed: installed, Archive: h.number(rpmutils.SIG_PAYLOADSIZE)},
		Location: location{o.name},
		Format: format{
			License: h.text(rpmutils.LICENSE), Vendor: h.text(rpmutils.VENDOR), Group: h.text(rpmutils.GROUP),
			BuildHost: h.text(rpmutils.BUILDHOST), SourceRPM: h.text(rpmutils.SOURCERPM),
			HeaderRange: headerRange{Start: where.Start, End: where.End},
			Provides:    h.relations(rpmutils.PROVIDENAME, rpmutils.PROVIDEVERSION, rpmutils.PROVIDEFLAGS),
			Requires:    h.relations(rpmutils.REQUIRENAME, rpmutils.REQUIREVERSION, rpmutils.REQUIREFLAGS),
			Conflicts:   h.relations(rpmutils.CONFLICTNAME, rpmutils.CONFLICTVERSION, rpmutils.CONFLICTFLAGS),
			Obsoletes:   h.relations(tagObsoleteName, rpmutils.OBSOLETEVERSION, rpmutils.OBSOLETEFLAGS),
			Recommends:  h.relations(tagRecommendName, tagRecommendName+1, tagRecommendName+2),
			Suggests:    h.relations(tagSuggestName, tagSuggestName+1, tagSuggestName+2),
			Supplements: h.relations(tagSupplementName, tagSupplementName+1, tagSupplementName+2),
			Enhances:    h.relations(tagEnhanceName, tagEnhanceName+1, tagEnhanceName+2),
			Files:       primaryFiles(list),
		},
	}
	return p, filelistsPackage{ID: sum, Name: p.Name, Arch: p.Arch, Version: v, Files: list}, nil
}

// Flags of a relation.
const (
	flagLess    = 1 << 1
	flagGreater = 1 << 2
	flagEqual   = 1 << 3
	flagPre     = 1<<6 | 1<<9 | 1<<10 | 1<<11 | 1<<12
	flagRPMLib  = 1 << 24
)

// comparisons are the names of flags in the index.
var comparisons = map[int]string{
	flagLess: "LT", flagGreater: "GT", flagEqual: "EQ", flagLess | flagEqual: "LE", flagGreater | flagEqual: "GE",
}

// relations reads what a package provides, requires, and so on. What it
// requires of rpm itself is no business of the index.
func (h *header) relations(names, versions, flags int) *relations {
	var all relations
	texts, numbers := h.texts(versions), h.numbers(flags)
	for i, name := range h.texts(names) {
		r := relation{Name: name}
		if i < len(numbers) {
			if numbers[i]&flagRPMLib != 0 {
				continue
			}
			if numbers[i]&flagPre != 0 {
				r.Pre = "1"
			}
			r.Flags = comparisons[numbers[i]&(flagLess|flagGreater|flagEqual)]
		}
		if i < len(texts) && r.Flags != "" {
			r.Epoch, r.Version, r.Release = splitVersion(texts[i])
		}
		all.Entries = append(all.Entries, r)
	}
	if len(all.Entries) == 0 {
		return nil
	}
	return &all
}

// splitVersion splits [EPOCH:]VERSION[-RELEASE].
func splitVersion(s string) (epoch, version, release string) {
	epoch = "0"
	if before, after, found := strings.Cut(s, ":"); found {
		if _, err := strconv.Atoi(before); err == nil {
			epoch, s = before, after
		}
	}
	version, release, _ = strings.Cut(s, "-")
	return epoch, version, release
}

const modeDirectory, modeType = 0o040000, 0o170000

func fileList(files []rpmutils.FileInfo) []file {
	var list []file
	for _, f := range files {
		entry := file{Name: f.Name()}
		switch {
		case f.Mode()&modeType == modeDirectory:
			entry.Type = "dir"
		case f.Flags()&rpmutils.RPMFILE_GHOST != 0:
			entry.Type = "ghost"
		}
		list = append(list, entry)
	}
	return list
}

// primaryFiles are the files by which packages may require one another without
// the long list being fetched.
func primaryFiles(list []file) []file {
	var some []file
	for _, f := range list {
		if strings.HasPrefix(f.Name, "/etc/") || strings.Contains(f.Name, "bin/") || f.Name == "/usr/lib/sendmail" {
			some = append(some, f)
		}
	}
	return some
}
