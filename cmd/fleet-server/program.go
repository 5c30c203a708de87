package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseProgram takes the pages of the program out of the process. Those that it uses
// come back from the kernel's cache, sixteen at a time. Half of the program describes
// APIs; a start reads nearly all of it, and without this the server seems to use 60 MB
// that it has no more need of, and that the kernel takes away last.
func releaseProgram() error {
	file, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	parts, err := unchanged(smaps, file)
	if err = errors.Join(err, smaps.Close()); err != nil {
		return err
	}
	for _, p := range parts {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, p.from, p.to-p.from, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("giving back pages of the program: %w", e)
		}
	}
	return nil
}

// part is a part of the address space.
type part struct{ from, to uintptr }

// unchanged returns the parts that show a file as it is and cannot be written to. Where
// something was changed, by a loader or a debugger, there are anonymous pages, which
// would be lost.
func unchanged(smaps io.Reader, file string) (parts []part, err error) {
	var p part
	var shows bool
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		var next part
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s ", &next.from, &next.to, &mode); n == 3 {
			p, shows = next, strings.HasSuffix(lines.Text(), " "+file) && !strings.Contains(mode, "w")
			continue
		}
		if name, value, _ := strings.Cut(lines.Text(), ":"); shows && name == "Anonymous" && strings.TrimSpace(value) == "0 kB" {
			parts = append(parts, p)
		}
	}
	return parts, lines.Err()
}
