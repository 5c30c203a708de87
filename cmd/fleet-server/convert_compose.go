package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"

	"fleet.nationtech.io/fleet/pkg/convert"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// compose reads a project as docker compose does: with interpolation, env files, extends,
// includes and profiles. It fetches nothing.
// texts are those of the files.
func (o *convertOptions) compose(ctx context.Context, files []string, texts [][]byte) (*convert.Result, error) {
	dir, err := filepath.Abs(filepath.Dir(files[0]))
	if err != nil {
		return nil, err
	}
	project, warnings, err := o.load(ctx, dir, files)
	if err != nil {
		text, _, unknown := strings.Cut(printable.Squeeze(err.Error()), "false schema")
		if unknown { // the words of the schema's validator
			text += "is no field that compose has"
		}
		return nil, fmt.Errorf("reading the compose file: %.1000s", text)
	}
	result := convert.Compose(project, textFiles{dir: dir, places: placesOfThisMachine(dir), texts: texts})
	result.Losses = append(warnings, result.Losses...)
	return result, nil
}

// load returns the project, and what compose-go warns of.
func (o *convertOptions) load(ctx context.Context, dir string, files []string) (project *types.Project, warnings []convert.Loss, err error) {
	caught := catchWarnings()
	defer func() { warnings = caught() }()
	options, err := cli.NewProjectOptions(files,
		cli.WithWorkingDirectory(dir), cli.WithOsEnv, cli.WithEnvFiles(o.envFiles...), cli.WithDotEnv,
		cli.WithProfiles(o.profiles), cli.WithDiscardEnvFile, cli.WithResolvedPaths(true))
	if err != nil {
		return nil, nil, err
	}
	options.Name = loader.NormalizeProjectName(o.name)
	project, err = options.LoadProject(ctx)
	return project, nil, err
}

// unset is what compose-go says about a variable without a value.
var unset = regexp.MustCompile(`^The "([^"]+)" variable is not set`)

// warningHook keeps what compose-go warns of: it knows no other way than logrus.
type warningHook struct {
	mu   sync.Mutex
	seen map[string]bool
	list []convert.Loss
}

func (*warningHook) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (h *warningHook) Fire(e *logrus.Entry) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := unset.FindStringSubmatch(e.Message)
	if m == nil || h.seen[m[1]] {
		return nil
	}
	h.seen[m[1]] = true
	h.list = append(h.list, convert.Loss{Path: []string{"${" + m[1] + "}"}, Why: "the variable is not set, so it is empty", Instead: "set it, in the environment or with --env-file"})
	return nil
}

// warned is held while a hook is in place: the logger is one for the process.
var warned sync.Mutex

// catchWarnings keeps warnings from standard error, until what it returns is called.
func catchWarnings() func() []convert.Loss {
	warned.Lock()
	h := &warningHook{seen: map[string]bool{}}
	logger := logrus.StandardLogger()
	before, out := logger.ReplaceHooks(logrus.LevelHooks{logrus.WarnLevel: {h}}), logger.Out
	logger.SetOutput(io.Discard)
	return func() []convert.Loss {
		logger.ReplaceHooks(before)
		logger.SetOutput(out)
		warned.Unlock()
		return h.list
	}
}
