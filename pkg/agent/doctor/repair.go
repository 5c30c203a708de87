package doctor

import (
	"cmp"
	"context"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// repairTimeout bounds one command: setup-user waits for its own lock and for
// systemd.
const repairTimeout = 2 * time.Minute

// Repair is a command that was run.
type Repair struct {
	Command string `json:"command"`
	// Error is what went wrong, in one line; empty when nothing did.
	Error string `json:"error,omitempty"`
}

// Fix runs the commands of the findings that are fixable, each once.
func Fix(ctx context.Context, r Report) []Repair {
	var done []Repair
	for _, f := range r.Findings {
		ran := slices.ContainsFunc(done, func(d Repair) bool { return d.Command == f.Command })
		if f.State == OK || !f.Fixable || ran {
			continue
		}
		done = append(done, Repair{Command: f.Command, Error: fix(ctx, f.Command)})
	}
	return done
}

func fix(ctx context.Context, command string) string {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = []string{"PATH=" + strings.Join(programDirs, ":"), "LC_ALL=C", "HOME=/root"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // what the command left behind may hold the pipes
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return cmp.Or(lastLine(out.String()), err.Error())
	}
	return ""
}

// lastLine is where programs say why they ended.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
