package rpmrepo

import "encoding/xml"

// The documents of a repository, as createrepo_c writes them. The names with a
// colon stand in the namespace that the root declares.

type repomd struct {
	XMLName   xml.Name     `xml:"repomd"`
	Namespace string       `xml:"xmlns,attr"`
	Revision  string       `xml:"revision"`
	Data      []repomdData `xml:"data"`
}

type repomdData struct {
	Type         string   `xml:"type,attr"`
	Checksum     checksum `xml:"checksum"`
	OpenChecksum checksum `xml:"open-checksum"`
	Location     location `xml:"location"`
	Timestamp    int64    `xml:"timestamp"`
	Size         int      `xml:"size"`
	OpenSize     int      `xml:"open-size"`
}

type checksum struct {
	Type  string `xml:"type,attr"`
	Value string `xml:",chardata"`
}

type location struct {
	Href string `xml:"href,attr"`
}

type primaryIndex struct {
	XMLName   xml.Name         `xml:"metadata"`
	Namespace string           `xml:"xmlns,attr"`
	RPM       string           `xml:"xmlns:rpm,attr"`
	Count     int              `xml:"packages,attr"`
	Packages  []primaryPackage `xml:"package"`
}

type primaryPackage struct {
	Type        string          `xml:"type,attr"`
	Name        string          `xml:"name"`
	Arch        string          `xml:"arch"`
	Version     version         `xml:"version"`
	Checksum    packageChecksum `xml:"checksum"`
	Summary     string          `xml:"summary"`
	Description string          `xml:"description"`
	Packager    string          `xml:"packager"`
	URL         string          `xml:"url"`
	Time        times           `xml:"time"`
	Size        sizes           `xml:"size"`
	Location    location        `xml:"location"`
	Format      format          `xml:"format"`
}

type version struct {
	Epoch   string `xml:"epoch,attr"`
	Version string `xml:"ver,attr"`
	Release string `xml:"rel,attr"`
}

type packageChecksum struct {
	Type  string `xml:"type,attr"`
	PkgID string `xml:"pkgid,attr"`
	Value string `xml:",chardata"`
}

type times struct {
	File  int64 `xml:"file,attr"`
	Build int   `xml:"build,attr"`
}

type sizes struct {
	Package   int64 `xml:"package,attr"`
	Installed int64 `xml:"installed,attr"`
	Archive   int   `xml:"archive,attr"`
}

type format struct {
	License     string      `xml:"rpm:license"`
	Vendor      string      `xml:"rpm:vendor"`
	Group       string      `xml:"rpm:group"`
	BuildHost   string      `xml:"rpm:buildhost"`
	SourceRPM   string      `xml:"rpm:sourcerpm"`
	HeaderRange headerRange `xml:"rpm:header-range"`
	Provides    *relations  `xml:"rpm:provides"`
	Requires    *relations  `xml:"rpm:requires"`
	Conflicts   *relations  `xml:"rpm:conflicts"`
	Obsoletes   *relations  `xml:"rpm:obsoletes"`
	Recommends  *relations  `xml:"rpm:recommends"`
	Suggests    *relations  `xml:"rpm:suggests"`
	Supplements *relations  `xml:"rpm:supplements"`
	Enhances    *relations  `xml:"rpm:enhances"`
	Files       []file      `xml:"file"`
}

type headerRange struct {
	Start int `xml:"start,attr"`
	End   int `xml:"end,attr"`
}

type relations struct {
	Entries []relation `xml:"rpm:entry"`
}

type relation struct {
	Name    string `xml:"name,attr"`
	Flags   string `xml:"flags,attr,omitempty"`
	Epoch   string `xml:"epoch,attr,omitempty"`
	Version string `xml:"ver,attr,omitempty"`
	Release string `xml:"rel,attr,omitempty"`
	Pre     string `xml:"pre,attr,omitempty"`
}

type file struct {
	Type string `xml:"type,attr,omitempty"`
	Name string `xml:",chardata"`
}

type filelistsIndex struct {
	XMLName   xml.Name           `xml:"filelists"`
	Namespace string             `xml:"xmlns,attr"`
	Count     int                `xml:"packages,attr"`
	Packages  []filelistsPackage `xml:"package"`
}

type filelistsPackage struct {
	ID      string  `xml:"pkgid,attr"`
	Name    string  `xml:"name,attr"`
	Arch    string  `xml:"arch,attr"`
	Version version `xml:"version"`
	Files   []file  `xml:"file"`
}
