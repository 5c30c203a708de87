// Package usage makes errors about the arguments and flags of a command say what
// to write instead. cobra and pflag say what is wrong in words of Go. Only
// programs may import it.
package usage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Explain changes the errors of a program's commands: root and all that it has
// by now.
func Explain(root *cobra.Command) {
	root.SetFlagErrorFunc(explainFlag)
	explainArgs(root)
	explainGroups(root)
}

// explainGroups has commands that only have others below them refuse words that are none:
// cobra would print help and report success.
func explainGroups(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		explainGroups(sub)
	}
	if cmd.Runnable() || !cmd.HasSubCommands() || !cmd.HasParent() {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return pflag.ErrHelp
		}
		err := fmt.Errorf("unknown command %.64q for %q", args[0], cmd.CommandPath())
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			return fmt.Errorf("%w: did you mean %s?", err, strings.Join(like, " or "))
		}
		return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
	}
	cmd.SuggestionsMinimumDistance = suggestionDistance
	// Help goes on to show what is below it alone.
	cmd.SetUsageTemplate(strings.Replace(cmd.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasSubCommands)}}", 1))
	cmd.RunE = func(*cobra.Command, []string) error { return pflag.ErrHelp }
}

// suggestionDistance is how many letters may be wrong, as cobra has it for the program itself.
const suggestionDistance = 2

func explainArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("%w: write %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainArgs(sub)
	}
}

// wanted is what the value of a flag has to be, by the type of the flag.
var wanted = map[string]string{
	"bool":     "true or false",
	"duration": "a duration such as 90s or 24h",
	"float64":  "a number such as 0.5",
	"int":      "a whole number",
	"intSlice": "a list of whole numbers such as 4,2",
}

func explainFlag(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		if form := wanted[invalid.GetFlag().Value.Type()]; form != "" {
			return fmt.Errorf("--%s: %.64q is not %s", invalid.GetFlag().Name, invalid.GetValue(), form)
		}
	}
	return fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())
}
