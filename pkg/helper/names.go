package helper

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
)

// nameServer is podman's server of names as its process is called, and namesPID the file
// beside those of networks that says which it is.
const (
	nameServer = "aardvark-dns"
	namesPID   = "aardvark.pid"
)

// NamesLost reports whether there are networks whose containers ask podman's server of names,
// and that server has ended: podman starts it with the next container of a network, and not
// before. It returns ErrUnavailable or the error of ctx.
func (c *Client) NamesLost(ctx context.Context) (bool, error) {
	got, _, err := c.ask(ctx, &request{Names: true, Timeout: patience(ctx, maxLook)}, maxReply, 0)
	if err != nil || got.Outcome != seen {
		return false, c.failure(ctx, &got, err)
	}
	return got.Lost, nil
}

var errNoNames = errors.New("it is not told where podman's server of names has its files")

func (s *Server) names() reply {
	if s.Names == "" {
		return answer(failed, errNoNames)
	}
	entries, err := os.ReadDir(s.Names)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return answer(failed, err)
	}
	wanted := false
	for _, e := range entries {
		wanted = wanted || e.Name() != namesPID
	}
	return reply{Outcome: seen, Lost: wanted && !serves(filepath.Join(s.Names, namesPID))}
}

// serves reports whether a file names the process of a server of names: the number may be
// another's by now.
func serves(file string) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && pid >= 2 && storage.Called(pid) == nameServer
}
