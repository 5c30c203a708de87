package main

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/printable"
)

// showPrevious prints what is kept of a crash of a service: of the last one when which is
// 1, of the one before when it is 2. It prints the last lines of the output, or all when
// lines is negative.
func showPrevious(cfg config.Config, service string, which, lines int, out io.Writer) error {
	all, err := crashes.Read(crashesDir(cfg))
	if err != nil {
		return err
	}
	found, err := crashes.Of(all, service)
	if err != nil {
		return err
	}
	if which > len(found) {
		return fmt.Errorf("%d crashes of service %s are kept: --previous takes 1 to %d", len(found), found[0].Name, len(found))
	}
	c := found[which-1]
	if err := printCrash(out, c, time.Now()); err != nil {
		return err
	}
	if lines >= 0 {
		c.Output = container.LastLines(c.Output, lines)
	}
	_, err = printable.Exact(out).Write(c.Output)
	return err
}

func crashesDir(cfg config.Config) string { return filepath.Join(cfg.StateDir, crashes.Dir) }

// printCrash prints the facts of a crash.
func printCrash(out io.Writer, c crashes.Crash, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 4, 3, ' ', 0)
	line := func(format string, args ...any) { printable.Fprintf(w, format+"\n", args...) }
	line("Service:\t%s", c.Name)
	line("Ended:\t%s UTC, %s%s", c.Seen.UTC().Format(time.DateTime), since(now, c.Seen), noticed(c))
	line("How:\t%s", c.How())
	if c.Ran > 0 {
		line("Ran for:\t%s", c.Ran.Round(time.Second))
	}
	line("Restarts:\t%d before", c.Restarts)
	line("Container:\t%s, of image %s", c.Container, c.Image)
	line("Manifest:\t%s", manifest(c.Device.Manifest))
	line("Connected:\t%s", map[bool]string{true: "yes", false: "no"}[c.Device.Connected])
	line("Device up:\t%s, boot %s", c.Uptime.Round(time.Second), c.Boot)
	if c.Device.MemorySize > 0 {
		line("Memory:\t%s of %s available", mebibytes(c.Device.MemoryAvailable), mebibytes(c.Device.MemorySize))
	}
	for _, d := range c.Device.Disks {
		line("Disk:\t%s of %s used on the file system of %s", mebibytes(d.Used), mebibytes(d.Size), d.Name)
	}
	line("Output:\t%s", map[bool]string{true: "none was kept", false: "its end follows"}[len(c.Output) == 0])
	line("")
	return w.Flush()
}

// since says how long ago something was, by a clock that may have been set.
func since(now, t time.Time) string {
	if now.Before(t) {
		return "by a clock that was set back since"
	}
	return age(now, t) + " ago"
}

// noticed says when the crash was, by podman, that the agent noticed much later.
func noticed(c crashes.Crash) string {
	const late = 10 * time.Second
	if c.Ended.IsZero() || c.Seen.Sub(c.Ended).Abs() < late {
		return ""
	}
	return "; podman dates it " + c.Ended.UTC().Format(time.DateTime) + " UTC"
}

func mebibytes(bytes uint64) string { return fmt.Sprintf("%d MiB", bytes>>20) }
