package golden

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Help returns the help of each command that is not hidden, below the command
// line that prints it. Skip names commands whose help is somebody else's.
func Help(t testing.TB, newRoot func() *cobra.Command, skip ...string) string {
	t.Helper()
	var b strings.Builder
	var add func(cmd *cobra.Command)
	add = func(cmd *cobra.Command) {
		if slices.Contains(skip, cmd.Name()) {
			return
		}
		args := strings.Fields(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().CommandPath()))
		b.WriteString("$ " + cmd.CommandPath() + " --help\n" + own(Run(t, newRoot(), append(args, "--help")...)) + "\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				add(sub)
			}
		}
	}
	root := newRoot()
	root.InitDefaultCompletionCmd()
	add(root)
	return b.String()
}

// own leaves out the flags that all commands have: the first help has them.
func own(help string) string {
	before, rest, found := strings.Cut(help, "\nGlobal Flags:\n")
	if !found {
		return help
	}
	if _, after, found := strings.Cut(rest, "\n\n"); found {
		return before + "\n" + after
	}
	return before
}

// Run returns what a command prints, on either stream.
func Run(t testing.TB, root *cobra.Command, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out.String()
}

// Completions returns the first lines of the completions for each shell.
func Completions(t testing.TB, newRoot func() *cobra.Command) string {
	t.Helper()
	const lines = 12
	var b strings.Builder
	for _, shell := range []string{"bash", "fish", "zsh"} {
		out := strings.SplitAfterN(Run(t, newRoot(), "completion", shell), "\n", lines+1)
		b.WriteString("$ " + newRoot().Name() + " completion " + shell + " | head -n 12\n" + strings.Join(out[:lines], "") + "\n")
	}
	return b.String()
}
