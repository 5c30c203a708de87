package interop_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/pty"
)

// screen is a terminal on which a program draws.
type screen struct {
	t   *testing.T
	own *os.File

	mu    sync.Mutex // guards drawn
	drawn bytes.Buffer
}

// control is what moves the cursor and changes colours, rather than text.
var control = regexp.MustCompile(`\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>78])`)

// k9s shows a kind on a terminal until the end of the test.
func (s site) k9s(kind string) *screen {
	s.t.Helper()
	own, terminal, err := pty.Open()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 240}); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(binary(s.t, filepath.Join("interop", "k9s")), "--command", kind, "--all-namespaces", "--logoless", "--refresh", "2")
	cmd.Env = s.environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	c := &screen{t: s.t, own: own}
	var reading sync.WaitGroup
	reading.Go(c.read)
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // ended already: fine
		_ = cmd.Wait()         // killed
		err := errors.Join(terminal.Close(), own.Close())
		reading.Wait()
		if err != nil {
			s.t.Error(err)
		}
	})
	return c
}

func (c *screen) read() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := c.own.Read(buffer)
		c.mu.Lock()
		c.drawn.Write(buffer[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// keys presses some, after which only what is drawn from then on counts.
func (c *screen) keys(keys string) {
	c.t.Helper()
	c.mu.Lock()
	c.drawn.Reset()
	c.mu.Unlock()
	if _, err := c.own.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

func (c *screen) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return control.ReplaceAllString(c.drawn.String(), " ")
}

// shows waits until all of the texts were drawn.
func (s site) shows(c *screen, texts ...string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("k9s shows %q", texts), func() error {
		drawn := c.text()
		for _, text := range texts {
			if !strings.Contains(drawn, text) {
				return fmt.Errorf("no %q in: %.4000s", text, strings.Join(strings.Fields(drawn), " "))
			}
		}
		return nil
	})
}

// k9s asks what it may do, lists and watches tables, describes objects with their
// events, and deletes them.
func TestK9s(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if _, err := s.Apply(t.Context(), deployment("shop", "group", "localhost/web:1")); err != nil {
		t.Fatal(err)
	}
	s.kubectl("wait", "--for=condition=Ready", "fleetdep/shop", "--timeout=60s")
	c := s.k9s("deployments.fleet.nationtech.io")
	s.shows(c, "shop", "PodmanV0", "MATCHED", "SUCCEEDED")
	c.keys("d")
	s.shows(c, "Target Selector", "RolledOut")
	c.keys("\x1b")
	s.shows(c, "shop")
	c.keys(":fleetdev\r")
	s.shows(c, "group-0", "broken-0", "CONNECTED")
	c.keys(":controllerrevisions\r")
	s.shows(c, "shop-")
	c.keys(":fleetdep\r")
	s.shows(c, "shop")
	c.keys("\x04") // Ctrl-D deletes, after a question
	s.shows(c, "Delete")
	c.keys("\t\r")
	s.eventually("the Deployment goes", func() error {
		if out := s.kubectl("get", "fleetdep", "-o", "name"); out != "" {
			return fmt.Errorf("there is still %s", out)
		}
		return nil
	})
}
