package doctor

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/rights"
)

// capture returns the standard output of a program, which runs as an account
// when one is given. An error has the last line that the program wrote.
func capture(ctx context.Context, as *Account, args ...string) (string, error) {
	program := args[0]
	for _, dir := range programDirs {
		if path := filepath.Join(dir, args[0]); isProgram(path) {
			program = path
			break
		}
	}
	account := rights.Account{UID: os.Geteuid(), GID: os.Getegid()}
	if as != nil {
		account = rights.Account{UID: as.UID, GID: as.GID}
	}
	cmd := account.Command(ctx, program, args[1:]...)
	if account.UID == os.Geteuid() {
		cmd.SysProcAttr.Credential = nil // which only root may change
	}
	if as != nil {
		cmd.Env = append(cmd.Env, "HOME="+as.Home, fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", as.UID))
	}
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s did not end in time", args[0])
	}
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return "", errors.New(cmp.Or(lastLine(stderr.String()), err.Error()))
	}
	return stdout.String(), err
}

// maxOutput bounds what is kept of a program's output, in bytes: what it repeats
// may come from an account that is not trusted.
const maxOutput = 64 << 10

// bounded keeps the last maxOutput bytes, where a program says why it ended.
type bounded struct{ last bytes.Buffer }

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	p = p[max(0, n-maxOutput):]
	b.last.Next(max(0, b.last.Len()+len(p)-maxOutput))
	b.last.Write(p)
	return n, nil
}

func (b *bounded) String() string { return b.last.String() }

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
