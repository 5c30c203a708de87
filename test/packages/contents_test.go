//go:build linux

package packages_test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// files are what packages hold, beside manual pages: mode, blank and path, in
// which NAME is the program.
type files []string

// inAll are in the deb and the rpm of both programs.
var inAll = files{
	"-rwxr-xr-x /usr/bin/NAME",
	"-rw-r--r-- /etc/default/NAME",
	"-rw-r--r-- /usr/lib/systemd/system/NAME.service",
	"-rw-r--r-- /usr/lib/sysusers.d/NAME.conf",
	"-rw-r--r-- /usr/share/bash-completion/completions/NAME",
	"-rw-r--r-- /usr/share/fish/vendor_completions.d/NAME.fish",
	"-rw-r--r-- /usr/share/doc/NAME/CHANGELOG.md.gz",
	"-rw-r--r-- /usr/share/doc/NAME/sbom.cdx.json.gz",
	"-rw-r--r-- /usr/share/doc/NAME/third-party-licenses.gz",
}

var (
	inPrograms = map[string]files{
		"fleet-agent": {
			"-rwxr-xr-x /usr/libexec/NAME/setup-user",
			"-rwxr-xr-x /usr/libexec/NAME/cleanup-user",
			"-rw-r--r-- /usr/lib/systemd/system/NAME-files.socket",
			"-rw-r--r-- /usr/lib/systemd/system/NAME-files.service",
			"-rw-r--r-- /usr/lib/systemd/user/fleet-helper.socket",
			"-rw-r--r-- /usr/lib/systemd/user/fleet-helper.service",
			"-rw-r--r-- /usr/lib/tmpfiles.d/NAME.conf",
			"-rw-r--r-- /usr/share/doc/NAME/examples/agent.yaml",
			"-rw-r--r-- /usr/share/NAME/release.pub",
		},
		"fleet-server": {
			"-rw-r--r-- /usr/share/doc/NAME/examples/config.yaml",
			"-rw-r--r-- /usr/share/NAME/monitoring/alerts.yaml",
			"-rw-r--r-- /usr/share/NAME/monitoring/scrape.yaml",
			"-rw-r--r-- /usr/share/NAME/monitoring/fleet.json",
			"-rw-r--r-- /usr/share/NAME/monitoring/fleet-server.json",
		},
	}
	inDebs = files{
		"-rw-r--r-- /usr/share/zsh/vendor-completions/_NAME",
		"-rw-r--r-- /usr/share/doc/NAME/changelog.gz",
		"-rw-r--r-- /usr/share/doc/NAME/copyright",
		"-rw-r--r-- /usr/share/lintian/overrides/NAME",
	}
	inRPMs = files{
		"-rw-r--r-- /usr/share/zsh/site-functions/_NAME",
		"-rw-r--r-- /usr/lib/systemd/system-preset/80-NAME.preset",
		"-rw-r--r-- /usr/share/licenses/NAME/LICENSE",
	}
)

// TestContents: the packages hold these files and no other, all of root's, and
// one of them is configuration.
func TestContents(t *testing.T) {
	t.Parallel()
	packed(t)
	for program, own := range inPrograms {
		deb, rpm := debFile(program, newVersion), rpmFile(program, newVersion)
		for _, tt := range []struct {
			format         string
			own            files
			list, conffile []string
		}{
			{"deb", inDebs, []string{"sh", "-euc", `dpkg-deb --contents "$0" | awk '{ sub("^[.]", "", $6); print $1, $2, $6 }'`, deb}, []string{"dpkg-deb", "--info", deb, "conffiles"}},
			{
				"rpm", inRPMs,
				[]string{"rpm", "--query", "--queryformat", `[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]`, "--package", rpm},
				[]string{"rpm", "--query", "--configfiles", "--package", rpm},
			},
		} {
			t.Run(program+" "+tt.format, func(t *testing.T) {
				t.Parallel()
				var got files
				for line := range strings.Lines(output(t, tt.list...)) {
					mode, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
					owner, path, _ := strings.Cut(rest, " ")
					if owner != "root/root" {
						t.Errorf("%s belongs to %s", path, owner)
					}
					if !strings.HasPrefix(mode, "d") {
						got = append(got, mode+" "+path)
					}
				}
				slices.Sort(got)
				if diff := cmp.Diff(wanted(t, program, own, tt.own), got); diff != "" {
					t.Errorf("it holds other files (-want +got):\n%s", diff)
				}
				if conffile := output(t, tt.conffile...); conffile != "/etc/default/"+program+"\n" {
					t.Errorf("configuration is %q", conffile)
				}
			})
		}
		if log := output(t, "rpm", "--query", "--changelog", "--package", rpm); !strings.Contains(log, " "+newVersion+"-1\n") {
			t.Errorf("the changelog of the rpm is %q", log)
		}
	}
}

func wanted(t *testing.T, program string, lists ...files) files {
	t.Helper()
	manual := t.TempDir()
	output(t, "../../bin/"+program, "gen-man", manual)
	pages, err := filepath.Glob(manual + "/*")
	if err != nil {
		t.Fatal(err)
	}
	var want files
	for _, page := range pages {
		want = append(want, "-rw-r--r-- /usr/share/man/man8/"+filepath.Base(page)+".gz")
	}
	for _, line := range slices.Concat(append(lists, inAll)...) {
		want = append(want, strings.ReplaceAll(line, "NAME", program))
	}
	slices.Sort(want)
	return want
}

// output is what a program of this host prints.
func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}
