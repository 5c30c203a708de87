package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersionsAreInOrder follows a repository through commits and tags: each
// version is newer than the one before, for dpkg and for rpm.
func TestVersionsAreInOrder(t *testing.T) {
	t.Parallel()
	repo := t.TempDir()
	if err := os.Mkdir(filepath.Join(repo, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(repo, "tools", "version.sh"), must(os.ReadFile("../version.sh")))
	git := func(date string, args ...string) {
		args = append([]string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_COMMITTER_DATE=" + date, "GIT_AUTHOR_DATE=" + date,
			"git", "-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)
		command(t, repo, "env", args...)
	}
	commit := func(date string) { git(date, "commit", "--quiet", "--allow-empty", "--message", "change") }
	tag := func(name string) { git("2027-01-01T00:00:00Z", "tag", name) }
	git("2027-01-01T00:00:00Z", "init", "--quiet")
	git("2027-01-01T00:00:00Z", "add", "tools")

	steps := []struct {
		do   func()
		want string // a prefix
	}{
		{func() { commit("2027-01-01T00:00:00Z") }, "0.1.0~dev.20270101000000."},
		{func() { commit("2027-01-02T23:30:00-01:00") }, "0.1.0~dev.20270103003000."},
		{func() { tag("v0.1.0-rc.1") }, "0.1.0~rc.1"},
		{func() { commit("2027-01-04T00:00:00Z") }, "0.1.0~rc.1+dev.20270104000000."},
		{func() { commit("2027-01-05T00:00:00Z"); tag("v0.1.0") }, "0.1.0"},
		{func() { commit("2027-01-06T00:00:00Z") }, "0.1.0+dev.20270106000000."},
		{func() {
			write(t, filepath.Join(repo, "tools", "version.sh"), append(must(os.ReadFile("../version.sh")), '\n'))
		}, "0.1.0+dev.20270106000000."},
		{func() {
			git("2027-01-07T00:00:00Z", "commit", "--quiet", "--all", "--message", "change")
			tag("v0.1.1")
		}, "0.1.1"},
	}
	before := "0.0.0~unknown"
	for _, step := range steps {
		step.do()
		got := strings.TrimSpace(command(t, repo, "tools/version.sh"))
		if !strings.HasPrefix(got, step.want) || strings.Contains(got, "-") {
			t.Errorf("version is %q, want %s", got, step.want)
		}
		command(t, repo, "dpkg", "--compare-versions", before, "lt", got)
		if order := command(t, repo, "rpm", "--eval", "%{lua:print(rpm.vercmp('"+before+"', '"+got+"'))}"); order != "-1\n" {
			t.Errorf("rpm takes %s for no older than %s", before, got)
		}
		before = got
	}
}
