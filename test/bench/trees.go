//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
)

const thisTree, earlierTree = "now", "before"

// tree is what is measured: the present one, or an earlier one to compare with.
type tree struct {
	// name is thisTree or earlierTree, bin the directory of its binaries.
	name, bin string
}

func (t tree) server() string { return filepath.Join(t.bin, "fleet-server") }

func (b *bench) present() tree { return tree{thisTree, b.bin} }

// eachTree measures the earlier tree, if there is one and it can have so many devices, and
// then the present one. What an earlier tree is not able to do ends nothing.
func (b *bench) eachTree(ctx context.Context, what string, devices int, measure func(tree) error) error {
	if b.before != "" && devices <= b.mostBefore {
		fmt.Fprintf(b.out, "--> %s, %s\n", what, earlierTree)
		if err := measure(tree{earlierTree, b.before}); err != nil {
			if ctx.Err() != nil {
				return err
			}
			b.notMeasured(what+", "+earlierTree, err)
		}
		fmt.Fprintf(b.out, "--> %s, %s\n", what, thisTree)
	}
	return measure(b.present())
}

// addOf adds a row of a tree; an earlier one has no target.
func (b *bench) addOf(t tree, what, value, target string, met bool) {
	if t.name == earlierTree {
		what, target = what+", "+earlierTree, ""
	}
	b.report.add(what, value, target, met)
}

// notMeasured says in the report that something is missing.
func (b *bench) notMeasured(what string, err error) {
	fmt.Fprintf(b.out, "not measured: %s: %v\n", what, err)
	b.report.add(what, "not measured", "", false)
}
