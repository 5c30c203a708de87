package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/sirupsen/logrus"

	"fleet.nationtech.io/fleet/pkg/convert"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// compose reads a project as docker compose does: with interpolation, env files, extends,
// includes and profiles. It fetches nothing.
func (o *convertOptions) compose(ctx context.Context, files []string) (*convert.Result, error) {
	warnings := catchWarnings()
	dir, err := filepath.Abs(filepath.Dir(files[0]))
	if err != nil {
		return nil, err
	}
	options, err := cli.NewProjectOptions(files,
		cli.WithWorkingDirectory(dir), cli.WithOsEnv, cli.WithEnvFiles(o.envFiles...), cli.WithDotEnv,
		cli.WithProfiles(o.profiles), cli.WithDiscardEnvFile, cli.WithResolvedPaths(true),
		cli.WithLoadOptions(func(l *loader.Options) {
			if o.name != "" {
				l.SetProjectName(loader.NormalizeProjectName(o.name), true)
			}
		}))
	if err != nil {
		return nil, composeError(err)
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return nil, composeError(err)
	}
	result := convert.Compose(project, textFiles{dir})
	result.Losses = append(warnings(), result.Losses...)
	return result, nil
}

// composeError is an error of compose-go in one line.
func composeError(err error) error {
	return fmt.Errorf("reading the compose file: %.1000s", printable.Squeeze(err.Error()))
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

// catchWarnings keeps warnings from standard error, until what it returns is called.
func catchWarnings() func() []convert.Loss {
	h := &warningHook{seen: map[string]bool{}}
	logger := logrus.StandardLogger()
	before, out := logger.ReplaceHooks(logrus.LevelHooks{logrus.WarnLevel: {h}}), logger.Out
	logger.SetOutput(io.Discard)
	return func() []convert.Loss {
		logger.ReplaceHooks(before)
		logger.SetOutput(out)
		return h.list
	}
}
