package helper_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"fleet.nationtech.io/fleet/pkg/helper"
)

func TestServerOfNames(t *testing.T) {
	t.Parallel()
	// A program of that name, which ends with its input.
	server := filepath.Join(t.TempDir(), "aardvark-dns")
	cat, err := os.ReadFile("/bin/cat")
	if err == nil {
		err = os.WriteFile(server, cat, 0o700)
	}
	cmd := exec.CommandContext(t.Context(), server)
	input, pipeErr := cmd.StdinPipe()
	if err := errors.Join(err, pipeErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	running := strconv.Itoa(cmd.Process.Pid)
	for name, tc := range map[string]struct {
		files map[string]string
		lost  bool
	}{
		"no networks":         {map[string]string{}, false},
		"no directory":        {nil, false},
		"it runs":             {map[string]string{"shop_web": "", "aardvark.pid": running + "\n"}, false},
		"it has ended":        {map[string]string{"shop_web": "", "aardvark.pid": "4194304999"}, true},
		"another program":     {map[string]string{"shop_web": "", "aardvark.pid": strconv.Itoa(os.Getpid())}, true},
		"no number":           {map[string]string{"shop_web": "", "aardvark.pid": "../1"}, true},
		"it never ran":        {map[string]string{"shop_web": ""}, true},
		"nobody needs it now": {map[string]string{"aardvark.pid": "4194304999"}, false},
	} {
		dir := filepath.Join(t.TempDir(), "names")
		for file, text := range tc.files {
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if lost, err := serve(t, &helper.Server{Names: dir}).NamesLost(t.Context()); err != nil || lost != tc.lost {
			t.Errorf("%s: lost is %t: %v", name, lost, err)
		}
	}
	if _, err := serve(t, &helper.Server{}).NamesLost(t.Context()); !errors.Is(err, helper.ErrUnavailable) {
		t.Errorf("one that is not told where to look: %v", err)
	}
	if err := errors.Join(input.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}
