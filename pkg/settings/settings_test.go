package settings_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"fleet.nationtech.io/fleet/pkg/settings"
)

// config is a program's.
type config struct {
	Name   string            `yaml:"name" env:"TEST_NAME" flag:"name" usage:"what it is called"`
	Ports  []string          `yaml:"ports" env:"TEST_PORTS" flag:"port" usage:"where it listens"`
	Labels map[string]string `yaml:"labels" env:"TEST_LABELS"`
	Every  time.Duration     `yaml:"every" env:"TEST_EVERY"`
	Log    logConfig         `yaml:"log"`
}

type logConfig struct {
	Level string `yaml:"level" env:"TEST_LOG_LEVEL"`
}

var program = settings.Program{Prefix: "TEST_", File: "/nosuch/default.yaml"}

func defaults() config {
	return config{Name: "default", Every: time.Minute, Log: logConfig{Level: "info"}}
}

func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load is a program that starts.
func load(env settings.Env, args ...string) (config, error) {
	cfg := defaults()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	program.AddFlags(flags, &cfg)
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	path, asked := program.Path(env, flags)
	return cfg, program.Load(&cfg, path, !asked, env, flags)
}

func TestFlagOverEnvironmentOverFileOverDefault(t *testing.T) {
	t.Parallel()
	file := write(t, "name: file\nports: [1, '2']\nlabels: {a: 7, b: x}\nevery: 5s\nlog:\n  level: debug\n")
	labels := map[string]string{"a": "7", "b": "x"}
	tests := map[string]struct {
		env  settings.Env
		args []string
		want config
	}{
		"default": {nil, nil, defaults()},
		"file":    {nil, []string{"--config", file}, config{"file", []string{"1", "2"}, labels, 5 * time.Second, logConfig{"debug"}}},
		"environment": {
			settings.Env{"TEST_CONFIG=" + file, "TEST_NAME=env", "TEST_PORTS=3,4", "TEST_LABELS=c=d,e=", "TEST_EVERY=6s", "TEST_LOG_LEVEL=warn", "OTHER=x"}, nil,
			config{"env", []string{"3", "4"}, map[string]string{"c": "d", "e": ""}, 6 * time.Second, logConfig{"warn"}},
		},
		"flag": {
			settings.Env{"TEST_CONFIG=/nosuch", "TEST_NAME=env", "TEST_PORTS=3,4"}, []string{"--config", file, "--name", "flag", "--port", "5", "--port", "6,7"},
			config{"flag", []string{"5", "6", "7"}, labels, 5 * time.Second, logConfig{"debug"}},
		},
		"empty": {
			settings.Env{"TEST_NAME=", "TEST_CONFIG="}, []string{"--port", "", "--name", "", "--config", ""}, defaults(),
		},
		"white space": {
			settings.Env{"TEST_NAME= env\r", "TEST_PORTS=3, 4 ", "TEST_LABELS=a=b, c = d", "TEST_EVERY= 6s\n", "TEST_CONFIG= " + file + " "}, nil,
			config{"env", []string{"3", "4"}, map[string]string{"a": "b", "c": "d"}, 6 * time.Second, logConfig{"debug"}},
		},
		"white space only":     {settings.Env{"TEST_NAME= ", "TEST_PORTS=\t", "TEST_CONFIG= "}, nil, defaults()},
		"white space in flags": {nil, []string{"--port", "5, 6", "--port", " 7"}, config{"default", []string{"5", "6", "7"}, nil, time.Minute, logConfig{"info"}}},
		"no file":              {nil, []string{"--config", os.DevNull}, defaults()},
		"Kubernetes' own variables": {settings.Env{
			"TEST_SERVICE_HOST=10.0.0.1", "TEST_SERVICE_PORT=1", "TEST_SERVICE_PORT_API=1", "TEST_PORT=tcp://10.0.0.1:1", "TEST_PORT_1_TCP=tcp://10.0.0.1:1",
			"TEST_BUS_SERVICE_HOST=10.0.0.2", "TEST_BUS_PORT_1_TCP_ADDR=10.0.0.2",
		}, nil, defaults()},
	}
	if os.Getenv("TEST_SERVICE_HOST") != "" {
		t.Fatal("the tests' own environment")
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := load(tt.env, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatIsWrongIsOneLineThatSaysWhereAndWhatToDo(t *testing.T) {
	t.Parallel()
	const in = "invalid configuration in FILE: "
	tests := map[string]struct {
		content string
		env     settings.Env
		want    string
	}{
		"unknown key":           {"name: a\nnmae: b\n", nil, in + "line 2: unknown key nmae; known here: name, ports, labels, every, log"},
		"unknown key below":     {"log:\n  lvl: a\n", nil, in + "line 2: unknown key lvl in log; known here: level"},
		"another case":          {"Name: b\n", nil, in + "line 1: unknown key Name: write name"},
		"a key that is no word": {"\"a\\nb\": b\n", nil, in + `line 1: unknown key "a\nb"; known here: name, ports, labels, every, log`},
		"a key twice":           {"name: a\nevery: 1s\nname: b\n", nil, in + "line 3: name is there twice, in line 1 first: delete one"},
		"a key twice below":     {"log:\n  level: a\n  level: b\n", nil, in + "line 3: log.level is there twice, in line 2 first: delete one"},
		"a label twice":         {"labels:\n  a: 1\n  a: 2\n", nil, in + "line 3: labels.a is there twice, in line 2 first: delete one"},
		"a list":                {"name: [a]\n", nil, in + "line 1: name: it must be one value, without [ ], { } or - before it"},
		"no list":               {"ports: a\n", nil, in + "line 1: ports: it must be a list, such as [a, b]"},
		"a list of lists":       {"ports: [[a]]\n", nil, in + "line 1: ports: it must be a list, such as [a, b]"},
		"no mapping":            {"labels: a\n", nil, in + "line 1: labels: it must have names and values, such as {a: b}"},
		"no duration":           {"every: soon\n", nil, in + `line 1: every: "soon" is not a duration such as 30s`},
		"a number":              {"every: 30\n", nil, in + `line 1: every: "30" is not a duration such as 30s`},
		"a value with keys":     {"\nlog: debug\n", nil, in + "line 2: log: it must have keys: level"},
		"a list at the top":     {"- a\n", nil, in + "line 1: not a YAML mapping: write KEY: VALUE"},
		"two documents":         {"name: a\n---\nname: b\n", nil, in + "more than one YAML document: keep the first, and delete the line --- and what follows"},
		"half a second one":     {"name: a\n---\n[", nil, in + "line 3: did not find expected node content"},
		"no YAML":               {"name: [a\nlog: b", nil, in + "line 1: did not find expected ',' or ']'"},
		"a tab":                 {"name: a\nlog:\n\tlevel: b\n", nil, in + "line 3: a tab begins it: indent with spaces"},
		"a tab in a list":       {"ports:\n  - a\n \t- b\n", nil, in + "line 3: a tab begins it: indent with spaces"},
		"itself":                {"labels: &a {b: *a}\n", nil, in + "line 1: labels: it must have names and values, such as {a: b}"},
		"empty":                 {"", nil, in + "the file is empty: write settings or a comment into it, or delete it"},
		"zeros":                 {"\x00\x00\x00\x00", nil, in + "the file is no text: restore it from a backup, or delete it"},
		"a program":             {"\x7fELF\x02\x01\x01\x00", nil, in + "the file is no text: restore it from a backup, or delete it"},
		"Latin-1":               {"name: Stra\xdfe\n", nil, in + "the file is no text: restore it from a backup, or delete it"},
		"too long":              {"name: a\n#" + strings.Repeat("x", 1<<20), nil, "reading the configuration: FILE is longer than 1048576 bytes: name the right file"},
		"variable": {"name: a\n", settings.Env{"TEST_NMAE=x"},
			"invalid configuration: unknown environment variable TEST_NMAE: unset it; known are TEST_CONFIG, TEST_NAME, TEST_PORTS, TEST_LABELS, TEST_EVERY, TEST_LOG_LEVEL"},
		"variable of no Service": {"name: a\n", settings.Env{"TEST_PORT=1", "OTHER_SERVICE_HOST=x"},
			"invalid configuration: unknown environment variable TEST_PORT: unset it; known are TEST_CONFIG, TEST_NAME, TEST_PORTS, TEST_LABELS, TEST_EVERY, TEST_LOG_LEVEL"},
		"duration":      {"name: a\n", settings.Env{"TEST_EVERY=x"}, `invalid configuration: environment variable TEST_EVERY: "x" is not a duration such as 30s`},
		"no label":      {"name: a\n", settings.Env{"TEST_LABELS=a"}, `invalid configuration: environment variable TEST_LABELS: "a" is not of the form NAME=VALUE`},
		"a label again": {"name: a\n", settings.Env{"TEST_LABELS=a=1,a=2"}, `invalid configuration: environment variable TEST_LABELS: "a" is there twice`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, tt.content)
			_, err := load(tt.env, "--config", file)
			if err == nil {
				t.Fatal("it is accepted")
			}
			if diff := cmp.Diff(tt.want, strings.ReplaceAll(err.Error(), file, "FILE")); diff != "" {
				t.Error(diff)
			}
			if invalid := strings.HasPrefix(tt.want, "invalid"); errors.Is(err, settings.ErrInvalid) != invalid {
				t.Errorf("it is ErrInvalid: %t, want %t", !invalid, invalid)
			}
		})
	}
}

func TestWhatIsNoFileIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:         dir + " is a directory: name a file",
		pipe:        pipe + " is a pipe: name a file",
		"/dev/zero": "/dev/zero is a device: name a file",
	} {
		if _, err := load(nil, "--config", path); err == nil || err.Error() != "reading the configuration: "+want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := load(nil, "--config", filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was asked for: %v", err)
	}
	// As configuration management writes files.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(write(t, "name: linked\n"), link); err != nil {
		t.Fatal(err)
	}
	if cfg, err := load(nil, "--config", link); err != nil || cfg.Name != "linked" {
		t.Errorf("%q, %v", cfg.Name, err)
	}
}

// What says nothing changes nothing.
func TestFilesThatSayNothing(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"comment": "# nothing\n", "null": "null\n", "blank": "\n", "no values": "name:\nevery:\nlog:\n", "a start": "---\n# nothing\n",
	} {
		got, err := load(nil, "--config", write(t, content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(defaults(), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAliases(t *testing.T) {
	t.Parallel()
	got, err := load(nil, "--config", write(t, "ports: &p [a, &b b]\nname: *b\nlog: {level: *b}\n"))
	if err != nil || got.Name != "b" || got.Log.Level != "b" || len(got.Ports) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	const want = `  TEST_NAME                          name
  TEST_PORTS                         ports
  TEST_LABELS                        labels
  TEST_EVERY                         every
  TEST_LOG_LEVEL                     log.level
`
	if diff := cmp.Diff(want, settings.Table(&config{})); diff != "" {
		t.Error(diff)
	}
}

// Whatever a file holds, the answer is one line or a configuration, and settings
// that are there are those of the file.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"name: a\nports: [a, b]\nlabels: {a: b}\nevery: 1s\nlog: {level: debug}\n", "log: &a {level: *a}\n", "<<: {name: a}\n", "---\n---\n", "? [a]\n: b\n", "\xff\xfea\x00:\x00 \x00b\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		path := write(t, string(content))
		cfg := defaults()
		err := settings.File(path, &cfg)
		if err != nil && (!errors.Is(err, settings.ErrInvalid) || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Errorf("%q", err)
		}
		again := defaults()
		if err := settings.File(path, &again); err == nil && !cmp.Equal(cfg, again) {
			t.Error("it reads otherwise a second time")
		}
	})
}

func FuzzEnvironment(f *testing.F) {
	f.Add("TEST_NAME", "a")
	f.Add("TEST_LABELS", "a=b,c")
	f.Add("TEST_PORT", "\xff\n")
	f.Fuzz(func(t *testing.T, name, value string) {
		_, err := load(settings.Env{name + "=" + value}, "--config", os.DevNull)
		if err != nil && (!errors.Is(err, settings.ErrInvalid) && !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "reading the configuration") || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Errorf("%q", err)
		}
	})
}

// A program that warns of unknown variables starts, and says the same.
func TestWarningOfUnknownVariables(t *testing.T) {
	t.Parallel()
	var warned []string
	lenient := program
	lenient.Warn = func(line string) { warned = append(warned, line) }
	cfg := defaults()
	if err := lenient.Load(&cfg, write(t, "name: a\n"), false, settings.Env{"TEST_NMAE=b", "TEST_EVERY=2s"}, nil); err != nil || cfg.Name != "a" || cfg.Every != 2*time.Second {
		t.Errorf("configuration %+v, %v", cfg, err)
	}
	if len(warned) != 1 || !strings.HasPrefix(warned[0], "unknown environment variable TEST_NMAE: unset it") {
		t.Errorf("warnings %q", warned)
	}
}
