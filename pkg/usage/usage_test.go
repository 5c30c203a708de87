package usage_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/usage"
)

func tool() *cobra.Command {
	root := &cobra.Command{Use: "tool", SilenceUsage: true, SilenceErrors: true}
	run := func(*cobra.Command, []string) {}
	paint := &cobra.Command{Use: "paint WALL", Args: cobra.ExactArgs(1), Run: run}
	f := paint.Flags()
	f.Duration("dry", time.Hour, "")
	f.Int("coats", 1, "")
	f.IntSlice("sizes", nil, "")
	f.Float64("share", 0, "")
	f.Bool("gloss", false, "")
	f.IP("from", nil, "")
	list := &cobra.Command{Use: "list", Args: cobra.NoArgs, Run: run}
	below := &cobra.Command{Use: "walls"}
	below.AddCommand(list)
	root.AddCommand(paint, below)
	root.SetOut(io.Discard)
	usage.Explain(root)
	return root
}

func TestErrorsSayWhatToWrite(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"paint":                      "accepts 1 arg(s), received 0: write tool paint WALL [flags]",
		"paint a b":                  "accepts 1 arg(s), received 2: write tool paint WALL [flags]",
		"walls list a":               `unknown command "a" for "tool walls list": write tool walls list [flags]`,
		"walls lsit":                 `unknown command "lsit" for "tool walls": did you mean list?`,
		"walls demolish":             `unknown command "demolish" for "tool walls": see tool walls --help`,
		"walls":                      "",
		"walls --help":               "",
		"paint a --colour=red":       "unknown flag: --colour: see tool paint --help",
		"paint a --dry":              "flag needs an argument: --dry: see tool paint --help",
		"paint a --dry=1d":           `--dry: "1d" is not a duration such as 90s or 24h`,
		"paint a --coats=two":        `--coats: "two" is not a whole number`,
		"paint a --sizes=1,x":        `--sizes: "1,x" is not a list of whole numbers such as 4,2`,
		"paint a --share=half":       `--share: "half" is not a number such as 0.5`,
		"paint a --gloss=no":         `--gloss: "no" is not true or false`,
		"paint a --from=x":           `invalid argument "x" for "--from" flag: failed to parse IP: "x": see tool paint --help`,
		"paint a --dry=2h --coats=2": "",
		"paint --help":               "",
		"walls list":                 "",
	} {
		root := tool()
		root.SetArgs(strings.Fields(args))
		got := ""
		if err := root.ExecuteContext(t.Context()); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", args, got, want)
		}
	}
}
