package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/golden"
)

// TestConvert converts applications of the kinds that run at the edge. That the server takes
// each Deployment is checked by the command itself.
func TestConvert(t *testing.T) {
	t.Setenv("ADMIN", "")
	for _, name := range []string{"broker", "recorder", "hub", "kiosk", "modbus", "policies", "balena", "pod", "list", "workloads"} {
		file := filepath.Join("testdata", "convert", name, "compose.yaml")
		if _, err := os.Stat(file); err != nil {
			file = filepath.Join("testdata", "convert", name, "pod.yaml")
		}
		var out, errOut bytes.Buffer
		if err := run(t.Context(), []string{"convert", "--profile", "*", file}, &out, &errOut); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		golden.Compare(t, "convert-"+name, out.String()+"\n# Standard error:\n"+errOut.String())
		for line := range strings.Lines(errOut.String()) {
			if strings.Contains(line, ":0: ") || strings.Count(line, "; ") < 1 {
				t.Errorf("%s: %q does not say where, why and what to do", name, line)
			}
		}
		if err := run(t.Context(), []string{"convert", "--strict", file}, &out, &errOut); err == nil || !strings.Contains(err.Error(), "are not translated") {
			t.Errorf("%s: --strict ends with %v", name, err)
		}
	}
}

func TestConvertStrictlyWhatIsWhole(t *testing.T) {
	t.Parallel()
	file := write(t, "services: {web: {image: 'nginx:1.29', restart: always}}")
	var out, errOut bytes.Buffer
	if err := run(t.Context(), []string{"convert", "--strict", "--selector", "site=north", "--namespace", "plant", "--name", "shop", file}, &out, &errOut); err != nil || errOut.Len() > 0 {
		t.Fatalf("%v: %s", err, errOut.String())
	}
	for _, part := range []string{"name: shop", "namespace: plant", "site: north", "image: docker.io/library/nginx:1.29"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is missing in\n%s", part, out.String())
		}
	}
}

func TestConvertRefuses(t *testing.T) {
	t.Parallel()
	big := write(t, strings.Repeat("# long\n", maxConverted/6))
	for says, args := range map[string][]string{
		"no such file":          {"/nowhere/compose.yaml"},
		"is not a regular file": {t.TempDir()},
		"is longer than":        {big},
		"services.web.imgae is no field that compose has": {write(t, "services: {web: {image: x, imgae: y}}")},
		"reading the compose file":                        {write(t, "services: [")},
		"is not label=value":                              {"--selector", "site", write(t, "services: {web: {image: x}}")},
		"unknown field":                                   {write(t, "{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {contaners: []}}")},
	} {
		var out, errOut bytes.Buffer
		err := run(t.Context(), append([]string{"convert"}, args...), &out, &errOut)
		if err == nil || !strings.Contains(err.Error(), says) || out.Len() > 0 {
			t.Errorf("%v with %q, want %q", err, out.String(), says)
		}
	}
}

// TestConvertReadsNothingByALink: a file beside the compose file that leads elsewhere is not copied.
func TestConvertReadsNothingByALink(t *testing.T) {
	t.Parallel()
	secret := write(t, "very secret")
	file := write(t, "services: {web: {image: x, volumes: ['./link:/etc/x:ro']}}")
	if err := os.Symlink(secret, filepath.Join(filepath.Dir(file), "link")); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if err := run(t.Context(), []string{"convert", file}, &out, &errOut); err != nil || strings.Contains(out.String(), "secret") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// TestConvertDirectories: what is small and text is copied, and nothing else.
func TestConvertDirectories(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make   func(dir string) error
		copied bool
	}{
		"text":    {func(dir string) error { return os.WriteFile(filepath.Join(dir, "app.conf"), []byte("text"), 0o600) }, true},
		"no text": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "app.bin"), []byte("text\x00"), 0o600) }, false},
		"too much": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "app.conf"), bytes.Repeat([]byte("text\n"), 30_000), 0o600)
		}, false},
		"nothing":               {func(string) error { return nil }, false},
		"a link to the outside": {func(dir string) error { return os.Symlink("/etc/hostname", filepath.Join(dir, "text")) }, false},
		"a link to the inside":  {func(dir string) error { return os.Symlink("../compose.yaml", filepath.Join(dir, "text")) }, true},
		"a directory by a link": {func(dir string) error { return os.Symlink("/etc", filepath.Join(dir, "text")) }, false},
		"too many files":        {func(dir string) error { return many(dir, 300) }, false},
		"far too many files":    {func(dir string) error { return many(dir, 1100) }, false},
		"directories below":     {func(dir string) error { return deep(dir, 10) }, true},
		"too deep":              {func(dir string) error { return deep(dir, 20) }, false},
	} {
		file := write(t, "services: {web: {image: x, restart: always, volumes: ['./config:/etc/app:ro']}}")
		dir := filepath.Join(filepath.Dir(file), "config")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "start.sh"), []byte("#!/bin/sh\n"), 0o700); err != nil || name == "nothing" {
			_ = os.Remove(filepath.Join(dir, "start.sh"))
		}
		if err := tc.make(dir); err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		if err := run(t.Context(), []string{"convert", file}, &out, &errOut); err != nil {
			t.Fatal(err)
		}
		copied := strings.Contains(out.String(), "kind: ConfigMap") && strings.Contains(out.String(), "mode: 365") && errOut.Len() == 0
		named := strings.Contains(out.String(), "- mountPath: /etc/app\n          name: config\n") && strings.Contains(errOut.String(), "devices do not have ./config")
		if copied != tc.copied || named == tc.copied {
			t.Errorf("%s: %s%s", name, out.String(), errOut.String())
		}
	}
}

// TestConvertLeavesOutHiddenFiles: nobody has to look for a password in what is printed. What
// is named in a mount of its own is copied, and said.
func TestConvertLeavesOutHiddenFiles(t *testing.T) {
	t.Parallel()
	const key = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n"
	for name, tc := range map[string]struct {
		mount  string
		copied []string
		says   []string
	}{
		"a directory": {"./config:/etc/app:ro", []string{"open", "linked"}, []string{"these of ./config are left out: .env, .git, .ssh and 1 more"}},
		"a file":      {"./config/.env:/app/.env:ro", []string{"password"}, []string{"has the content of ./config/.env, for everybody"}},
		"a link":      {"./config/link:/app/env:ro", []string{"password"}, []string{"has the content of ./config/link, for everybody"}},
		"by name":     {"./config/.ssh:/root/.ssh:ro", []string{"identity"}, []string{"has the content of id, for everybody"}},
		"a key":       {"./keys:/etc/keys:ro", []string{"OPENSSH"}, []string{"has the content of tls.pem, for everybody"}},
	} {
		file := write(t, "services: {web: {image: x, restart: always, volumes: ['"+tc.mount+"']}}")
		for path, text := range map[string]string{
			"config/app.conf": "open", "config/.env": "password", "config/.git/config": "remote", "config/.ssh/id": "identity", "keys/tls.pem": key, "linked.conf": "linked",
		} {
			path = filepath.Join(filepath.Dir(file), path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		config := filepath.Join(filepath.Dir(file), "config")
		if err := errors.Join(os.Symlink(".env", filepath.Join(config, "link")), os.Symlink("../linked.conf", filepath.Join(config, "other"))); err != nil {
			t.Fatal(err)
		}
		var out, errOut bytes.Buffer
		if err := run(t.Context(), []string{"convert", file}, &out, &errOut); err != nil {
			t.Fatal(err)
		}
		for _, content := range []string{"open", "linked", "password", "remote", "identity", "OPENSSH"} {
			if got, want := strings.Contains(out.String(), content), slices.Contains(tc.copied, content); got != want {
				t.Errorf("%s: %q is there: %v, want %v, in\n%s", name, content, got, want, out.String())
			}
		}
		for _, text := range tc.says {
			if !strings.Contains(errOut.String(), text) {
				t.Errorf("%s: %q is missing in %s", name, text, errOut.String())
			}
		}
	}
}

// TestConvertPathsOfThisMachine: what lies beside the project, in a home, or where the command
// runs is on no device; what a file says as it is was meant for devices.
func TestConvertPathsOfThisMachine(t *testing.T) {
	home, here := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("PWD", here)
	t.Chdir(here)
	for source, want := range map[string]string{
		"../data":      "devices do not have ",
		"~/data":       "devices do not have " + home + "/data, a path of this machine, so it is the volume data",
		"${HOME}/data": "devices do not have " + home + "/data",
		"$PWD/data":    "devices do not have " + here + "/data",
		"/srv/data":    "",
		home + "/data": "no device lets a container mount " + home, // it is in /tmp; as it is, it was meant for devices
	} {
		file := write(t, "services: {web: {image: x, restart: always, volumes: ['"+source+":/data']}}")
		var out, errOut bytes.Buffer
		if err := run(t.Context(), []string{"convert", file}, &out, &errOut); err != nil {
			t.Fatal(err)
		}
		mounts := strings.Contains(out.String(), "hostPath: "+source)
		if got := errOut.String(); mounts != (want == "") || !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %s%s", source, out.String(), got)
		}
	}
}

// TestConvertWhatIsUnused: a network that nothing is in is made by nobody, so that there is
// nothing to say of it.
func TestConvertWhatIsUnused(t *testing.T) {
	t.Parallel()
	file := write(t, "services: {web: {image: x, restart: always}}\nnetworks: {default: {ipam: {driver: default}}, back: {internal: true, driver: macvlan}}")
	var out, errOut bytes.Buffer
	if err := run(t.Context(), []string{"convert", "--strict", file}, &out, &errOut); err != nil || errOut.Len() > 0 {
		t.Errorf("%v: %s", err, errOut.String())
	}
}

// TestConvertNamesTheMount: a volume of two Deployments is named where it is mounted, whatever
// else was left out.
func TestConvertNamesTheMount(t *testing.T) {
	t.Parallel()
	file := write(t, `services:
  one: {image: x, restart: always, volumes: ['data:/data']}
  two:
    image: x
    restart: always
    network_mode: host
    volumes:
      - /proc:/host/proc
      - data:/data
volumes: {data: {}}
`)
	var out, errOut bytes.Buffer
	if err := run(t.Context(), []string{"convert", file}, &out, &errOut); err != nil || !strings.Contains(errOut.String(), file+":9: services.two.volumes[1]: a named volume belongs to one Deployment") {
		t.Errorf("%v: %s", err, errOut.String())
	}
}

// deep makes directories in each other, and a file in the last.
func deep(dir string, n int) error {
	for range n {
		dir = filepath.Join(dir, "d")
	}
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "app.conf"), []byte("text"), 0o600))
}

func many(dir string, n int) (err error) {
	for i := range n {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("text"), 0o600))
	}
	return err
}

func write(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "project")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
