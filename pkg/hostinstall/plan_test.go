package hostinstall_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/hostinstall"
)

const (
	dropIn   = unit + ".d/50-data-dir.conf"
	mayWrite = "# Written by fleet-server install.\n[Service]\nReadWritePaths=/srv/fleet\n"
)

func TestPlanOfAnInstallation(t *testing.T) {
	t.Parallel()
	elsewhere := with(one("dataDir", "/srv/fleet"))
	tests := map[string]struct {
		host    hostinstall.Known
		options hostinstall.Options
		want    []string
		refused string
	}{
		"a bare host": {
			host: hostinstall.Known{Booted: true}, options: defaults,
			want: []string{"create  " + program, "create  " + unit, "make the accounts", "make    " + data, "record  version 2.0"},
		},
		"without systemd": {
			options: defaults,
			want:    []string{"create  " + program, "make the accounts", "make    " + data, "record  version 2.0"},
		},
		"a package, whose file is kept": {
			host: hostinstall.Known{Packaged: true, Booted: true}, options: hostinstall.Options{DataDir: data, Package: "/tmp/a.deb"},
			want: []string{"make    " + data, "store   /tmp/a.deb", "record  version 2.0"},
		},
		"settings": {
			host: hostinstall.Known{Packaged: true, Config: "logLevel: info # ours\n"}, options: with(one("logLevel", "warn"), list("tlsSANs", "a", "b")),
			want: []string{"create  " + config + ": logLevel: warn, tlsSANs: [a, b]", "make    " + data, "record  version 2.0"},
		},
		"settings that are there": {
			host: hostinstall.Known{Packaged: true, Config: "logLevel: warn\n"}, options: with(one("logLevel", "warn")),
			want: []string{"make    " + data, "record  version 2.0"},
		},
		"an edited configuration": {
			host: hostinstall.Known{
				Packaged: true, Config: "logLevel: debug\n",
				Files: map[string][]string{config: {"logLevel: info\n"}}, Has: map[string]string{config: "logLevel: debug\n"},
			},
			options: with(one("logLevel", "warn")),
			want:    []string{"KEEP    " + config + ", which is not as it was installed; it should become: logLevel: warn ()", "make    " + data, "record  version 2.0"},
		},
		"a newer program": {
			host: hostinstall.Known{
				Version: "1.0", Files: map[string][]string{program: {"v1"}}, Has: map[string]string{program: "v1"},
			},
			options: defaults,
			want:    []string{"change  " + program, "make the accounts", "make    " + data, "record  version 2.0", "with a way back"},
		},
		"half a newer program": { // a power cut came in between
			host: hostinstall.Known{
				Version: "1.0", Files: map[string][]string{program: {"v1", "v2"}}, Has: map[string]string{program: "v1"},
			},
			options: defaults,
			want:    []string{"change  " + program, "make the accounts", "make    " + data, "record  version 2.0", "with a way back"},
		},
		"the same program": {
			host: hostinstall.Known{
				Version: "2.0", Files: map[string][]string{program: {"v2"}}, Has: map[string]string{program: "v2"},
			},
			options: defaults,
			want:    []string{"leave   " + program, "make the accounts", "make    " + data, "record  version 2.0"},
		},
		"an older program": {
			host: hostinstall.Known{
				Version: "3.0", Files: map[string][]string{program: {"v3"}}, Has: map[string]string{program: "v3"},
			},
			options: defaults, refused: "version 2.0 is older than 3.0",
		},
		"somebody's program": {
			host: hostinstall.Known{Has: map[string]string{program: "theirs"}}, options: defaults, refused: program + " was not installed by this program",
		},
		"another data directory": {
			host: hostinstall.Known{Booted: true, Packaged: true}, options: elsewhere,
			want: []string{"create  " + config + ": dataDir: /srv/fleet", "create  " + dropIn, "make    /srv/fleet", "record  version 2.0"},
		},
		"the default one again": {
			host: hostinstall.Known{
				Booted: true, Packaged: true, DataDir: "/srv/fleet", Config: "dataDir: /srv/fleet\n", Data: data,
				Files: map[string][]string{dropIn: {mayWrite}}, Has: map[string]string{dropIn: mayWrite},
			},
			options: with(one("dataDir", data)),
			want:    []string{"create  " + config + ": dataDir: " + data, "remove  " + dropIn, "make    " + data, "record  version 2.0"},
		},
		"data that would be left behind": {
			host: hostinstall.Known{Data: data}, options: elsewhere, refused: "move the data to /srv/fleet",
		},
		"data that were moved": {
			host: hostinstall.Known{Packaged: true, Data: "/srv/fleet"}, options: elsewhere,
			want: []string{"create  " + config + ": dataDir: /srv/fleet", "make    /srv/fleet", "record  version 2.0"},
		},
		"somebody's directory": {
			host: hostinstall.Known{Strange: "/srv/fleet"}, options: elsewhere, refused: "/srv/fleet is not empty",
		},
		"a directory that the unit cannot see": {
			options: with(one("dataDir", "/home/fleet")), refused: "the service has no access to it",
		},
		"a directory that a unit cannot name": {
			options: with(one("dataDir", "/srv/a b")), refused: "use letters",
		},
		"directory and version at once": {
			host: hostinstall.Known{
				Version: "1.0", Files: map[string][]string{program: {"v1"}}, Has: map[string]string{program: "v1"}, Data: "/srv/fleet",
			},
			options: elsewhere, refused: "cannot change at once",
		},
		"a configuration that is none": {
			host: hostinstall.Known{Packaged: true, Config: "- a\n"}, options: with(one("logLevel", "warn")), refused: "not a YAML mapping",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.host.Product = hostinstall.Server
			got, err := tt.host.PlanInstall(tt.options, "v2", "2.0")
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("got %v, %q, want %q", err, got, tt.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What nobody may do by accident is refused as such, for the exit status.
func TestRefusedPlansChangeNothing(t *testing.T) {
	t.Parallel()
	k := hostinstall.Known{Product: hostinstall.Server, Data: data}
	if _, err := k.PlanInstall(with(one("dataDir", "/srv/fleet")), "v2", "2.0"); !errors.Is(err, hostinstall.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestPlanOfARemoval(t *testing.T) {
	t.Parallel()
	files := map[string][]string{program: {"v1"}, unit: {""}, config: {""}}
	const cleanup = "libexec/fleet-agent/cleanup-user"
	tests := map[string]struct {
		host            hostinstall.Known
		removal         hostinstall.Removal
		want, announced []string
	}{
		"server": {
			host: hostinstall.Known{Product: hostinstall.Server, Booted: true, Files: files},
			want: []string{
				"stop and disable the service", "forget an upgrade that is under way", "remove  " + unit, "remove the package that was kept",
				"reload units", "remove empty directories", "remove  " + program, "forget the version",
			},
			announced: []string{"remove  " + unit, "remove  " + program},
		},
		"server, purged": {
			host:    hostinstall.Known{Product: hostinstall.Server, DataDir: "/srv/fleet", Files: files},
			removal: hostinstall.Removal{Purge: true},
			want: []string{
				"stop and disable the service", "forget an upgrade that is under way", "remove  " + config, "remove  " + unit, "remove the package that was kept",
				"remove  /var/lib/fleet-install/fleet-server", "remove  /srv/fleet", "forget the data directory", "remove empty directories", "remove  " + program, "forget the installation",
			},
			announced: []string{"remove  " + config, "remove  " + unit, "remove  " + program, "remove  /srv/fleet and all that is in it"},
		},
		"server of a package": {
			host: hostinstall.Known{Product: hostinstall.Server, Packaged: true, Booted: true},
			want: []string{
				"stop the service", "forget an upgrade that is under way", "remove the package that was kept", "reload units", "remove empty directories", "forget the version",
			},
		},
		"agent": {
			host: hostinstall.Known{Product: hostinstall.Agent},
			want: []string{
				"stop and disable the service", "forget an upgrade that is under way", "run     /usr/local/" + cleanup + ", purge false, volumes false",
				"remove the package that was kept", "remove empty directories", "forget the version",
			},
		},
		"agent of a package": { // its scripts end what it runs
			host: hostinstall.Known{Product: hostinstall.Agent, Packaged: true},
			want: []string{"stop the service", "forget an upgrade that is under way", "remove the package that was kept", "remove empty directories", "forget the version"},
		},
		"agent of a package, purged": {
			host:    hostinstall.Known{Product: hostinstall.Agent, Packaged: true},
			removal: hostinstall.Removal{Purge: true, Volumes: true},
			want: []string{
				"stop the service", "forget an upgrade that is under way", "run     /usr/" + cleanup + ", purge true, volumes true",
				"remove the package that was kept", "remove  /var/lib/fleet-install/fleet-agent", "forget the data directory", "remove empty directories", "forget the installation",
			},
			announced: []string{"remove  /var/lib/fleet-agent and all that is in it"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps, announced := tt.host.PlanRemoval(tt.removal)
			if diff := cmp.Diff(tt.want, steps); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.announced, announced); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What has been in use since the backup was made is never set back to it.
func TestFateOfAnInterruptedUpgrade(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what, phase                      string
		active, changed, ready, replaced bool
		want                             string
	}{
		{what: "no upgrade", want: "new"},
		{what: "it was being backed up", phase: "backup", changed: true, ready: true, want: "new"},
		{what: "nothing happened yet", phase: "change", want: "on"},
		{what: "the program was replaced", phase: "change", replaced: true, want: "on"},
		{what: "the new version failed", phase: "change", replaced: true, changed: true, want: "on"},
		{what: "the new version works", phase: "change", replaced: true, changed: true, ready: true, want: "over"},
		{what: "the new version runs", phase: "change", replaced: true, active: true, want: "over"},
		{what: "the old version started again", phase: "change", changed: true, want: "over"},
		{what: "it was going back", phase: "back", replaced: true, want: "back"},
		{what: "it was going back, the new version had failed", phase: "back", replaced: true, changed: true, want: "back"},
		{what: "half of the data is back", phase: "back", changed: true, want: "back"},
		{what: "the old version works again", phase: "back", changed: true, ready: true, want: "over"},
		{what: "the old version runs again", phase: "back", active: true, want: "over"},
	} {
		if got := hostinstall.Fate(tt.phase, tt.active, tt.changed, tt.ready, tt.replaced); got != tt.want {
			t.Errorf("%s: it goes %s, want %s", tt.what, got, tt.want)
		}
	}
}
