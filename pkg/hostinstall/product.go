package hostinstall

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"fleet.nationtech.io/fleet/packaging"
)

// Product is what is installed.
type Product struct {
	// Name is that of the program, the package, the unit and the account.
	Name string
	// Config is the configuration file; the service starts without one unless
	// NeedsConfig is set.
	Config      string
	NeedsConfig bool
	// DataDir is the default data directory. It is backed up before an upgrade,
	// but for what Rebuilt names, if Backup is set.
	DataDir string
	Backup  bool
	Rebuilt []string
	// Forward are names in the data directory that are never set back: the way
	// back from an upgrade keeps what they hold, and adds what only the backup has.
	// So each version has to write them so that the previous one can read them.
	Forward []string
	// Ready is the file in the data directory that the service writes each time it
	// becomes ready; empty when it writes none.
	Ready string
	files []shipped
	// Scripts are the directory, below /usr/local or /usr, of the scripts that
	// make accounts and end what they run; empty for one plain account.
	scripts string
}

// shipped is a file of directory packaging and its place beside a program that
// no package installed.
type shipped struct {
	source, target string
	mode           fs.FileMode
}

// Server is fleet-server.
var Server = Product{
	Name: "fleet-server", Config: "/etc/fleet-server/config.yaml", DataDir: "/var/lib/fleet-server", Backup: true,
	// The bus is rebuilt from the API store; images and releases are large, and
	// never change once they are there; the rest lives as long as a process.
	Rebuilt: []string{"nats", "images", "release", "lock", "kine.sock"},
	// Whoever was revoked stays out, an authority that was pruned is not trusted
	// again, and by the term the server notices that its API store was set back.
	Forward: []string{"revoked-keys.jsonl", "pki", "last-term.json"},
	Ready:   "last-ready.json",
	files:   []shipped{{"systemd/fleet-server.service", "/etc/systemd/system/fleet-server.service", 0o644}},
}

// Agent is fleet-agent.
var Agent = Product{
	Name: "fleet-agent", Config: "/etc/fleet-agent/agent.yaml", NeedsConfig: true, DataDir: "/var/lib/fleet-agent",
	scripts: "libexec/fleet-agent",
	files: []shipped{
		{"libexec/setup-user", "/usr/local/libexec/fleet-agent/setup-user", 0o755},
		{"libexec/cleanup-user", "/usr/local/libexec/fleet-agent/cleanup-user", 0o755},
		{"systemd/fleet-agent.tmpfiles", "/etc/tmpfiles.d/fleet-agent.conf", 0o644},
		{"systemd/fleet-helper.socket", "/etc/systemd/user/fleet-helper.socket", 0o644},
		{"systemd/fleet-helper.service", "/etc/systemd/user/fleet-helper.service", 0o644},
		{"systemd/fleet-agent-files.socket", "/etc/systemd/system/fleet-agent-files.socket", 0o644},
		{"systemd/fleet-agent-files.service", "/etc/systemd/system/fleet-agent-files.service", 0o644},
		{"systemd/fleet-agent.service", "/etc/systemd/system/fleet-agent.service", 0o644},
	},
}

// places says where things lie that no package owns: what is local to a host
// goes to /usr/local and /etc, and a package may come later.
var places = strings.NewReplacer(
	"/usr/bin/fleet-", "/usr/local/bin/fleet-",
	"/usr/libexec/fleet-", "/usr/local/libexec/fleet-",
	"/usr/lib/tmpfiles.d/fleet-", "/etc/tmpfiles.d/fleet-",
)

// Program is where the program lies that no package installed.
func (p *Product) Program() string { return filepath.Join("/usr/local/bin", p.Name) }

// Packaged is where its package puts the program.
func (p *Product) Packaged() string { return filepath.Join("/usr/bin", p.Name) }

func (p *Product) program(packaged bool) string {
	if packaged {
		return p.Packaged()
	}
	return p.Program()
}

// dir is the product's own part of stateDir.
func (p *Product) dir(elements ...string) string {
	return filepath.Join(append([]string{stateDir, p.Name}, elements...)...)
}

// script is the path of one of the product's scripts.
func (p *Product) script(name string, packaged bool) string {
	if packaged {
		return filepath.Join("/usr", p.scripts, name)
	}
	return filepath.Join("/usr/local", p.scripts, name)
}

func (p *Product) unit() string { return p.Name + ".service" }

// unpackaged returns the files of an installation without a package; source is
// the program.
func (p *Product) unpackaged(source string, booted bool) ([]file, error) {
	files := []file{{path: p.Program(), mode: 0o755, source: source}}
	for _, s := range p.files {
		if s.target == filepath.Join("/etc/systemd/system", p.unit()) && !booted {
			continue
		}
		content, err := packaging.Files.ReadFile(s.source)
		if err != nil {
			return nil, fmt.Errorf("reading what to install: %w", err)
		}
		files = append(files, file{path: s.target, mode: s.mode, content: []byte(places.Replace(string(content)))})
	}
	return files, nil
}
