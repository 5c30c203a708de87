package podman_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containers/podman/v5/pkg/bindings"
	"github.com/containers/podman/v5/pkg/bindings/images"
	"go.uber.org/goleak"
	"golang.org/x/term"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// envSocket names the socket of a podman that tests may use.
const envSocket = "FLEET_TEST_PODMAN_SOCKET"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == program {
		play(os.Args[1:])
	}
	goleak.VerifyTestMain(m)
}

const (
	// program is the test binary itself: the image holds nothing else.
	program = "fleet-test-program"
	image   = "localhost/fleet-conformance:1"
	missing = "localhost:1/fleet-missing:1"
)

// play is what the program in the image does: sleep, look at a secret, or exit
// with a code.
func play(args []string) {
	if len(args) == 2 && args[0] == containertest.ExitCommand {
		code, err := strconv.Atoi(args[1])
		if err != nil {
			code = 100
		}
		containertest.Farewell(os.Stdout, os.Stderr, args[1])
		os.Exit(code)
	}
	if len(args) == 1 && args[0] == containertest.TalkCommand {
		containertest.Talk(os.Stdout)
	}
	if len(args) == 1 && args[0] == containertest.EchoCommand {
		_, _ = io.Copy(os.Stdout, os.Stdin)
		os.Exit(0)
	}
	if len(args) == 1 && args[0] == containertest.SizeCommand {
		rows, columns := 0, 0
		for range 1000 { // podman 4.3 tells it after the start
			if columns, rows, _ = term.GetSize(0); rows > 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Println(rows, columns)
		os.Exit(0)
	}
	if len(args) == 4 && args[0] == containertest.CheckCommand {
		file, err := os.ReadFile(args[2])
		if err != nil || string(file) != args[3] || os.Getenv(args[1]) != args[3] {
			os.Exit(1)
		}
		os.Exit(0)
	}
	<-time.After(time.Hour)
	os.Exit(0)
}

// socket skips unless a podman is there to be tested.
func socket(t *testing.T) string {
	t.Helper()
	path := os.Getenv(envSocket)
	if path == "" {
		t.Skipf("%v: %s names no podman socket", errors.ErrUnsupported, envSocket)
	}
	return path
}

func TestPodmanConforms(t *testing.T) {
	path := socket(t)
	importProgram(t, path, image, map[string]any{
		"Volumes": map[string]any{containertest.DeclaredPath: struct{}{}},
		"Healthcheck": map[string]any{
			"Test": []string{"CMD", "/" + program, containertest.ExitCommand, "1"}, "Interval": 7 * time.Second, "Timeout": 3 * time.Second, "Retries": 2,
		},
	})
	client := podman.New(func() string { return path }, filepath.Join(t.TempDir(), "none.json"))
	t.Cleanup(client.Close)
	containertest.Conformance(t, containertest.Subject{
		Runtime: client, Image: image, Missing: missing, Tag: tag(path),
		Sleep:     []string{"/" + program, "sleep"},
		Exit:      func(code string) []string { return []string{"/" + program, containertest.ExitCommand, code} },
		Unchecked: unchecked(path),
		Talk:      []string{"/" + program, containertest.TalkCommand},
		Echo:      []string{"/" + program, containertest.EchoCommand},
		Size:      []string{"/" + program, containertest.SizeCommand},
		Check: func(variable, path, content string) []string {
			return []string{"/" + program, containertest.CheckCommand, variable, path, content}
		},
	})
}

// tag gives images further names.
func tag(path string) func(t *testing.T, image, another string) {
	return func(t *testing.T, image, another string) {
		t.Helper()
		conn, err := bindings.NewConnection(t.Context(), "unix://"+path)
		if err != nil {
			t.Fatal(err)
		}
		repository, tag, _ := strings.Cut(another, ":")
		if err := images.Tag(conn, image, tag, repository, nil); err != nil {
			t.Error(err)
		}
		if c, err := bindings.GetClient(conn); err == nil {
			c.Client.CloseIdleConnections()
		}
	}
}

// importProgram makes an image of the test binary itself, which is static.
func importProgram(t *testing.T, path, image string, config map[string]any) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	layer := tarball(t, map[string][]byte{program: binary})
	sum := sha256.Sum256(layer)
	archive := tarball(t, map[string][]byte{
		"manifest.json": encoded(t, []map[string]any{{"Config": "config.json", "RepoTags": []string{image}, "Layers": []string{"layer.tar"}}}),
		"config.json": encoded(t, map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
			"config": config,
		}),
		"layer.tar": layer,
	})
	conn, err := bindings.NewConnection(t.Context(), "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Load(conn, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn := context.WithoutCancel(conn)
		_, errs := images.Remove(conn, []string{image}, nil)
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if c, err := bindings.GetClient(conn); err == nil {
			c.Client.CloseIdleConnections()
		}
	})
}

func tarball(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	for name, content := range files {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))})
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unchecked reports a failure if podman itself looks after the health of a container.
func unchecked(path string) func(t *testing.T, name string) {
	return func(t *testing.T, name string) {
		t.Helper()
		conn, err := bindings.NewConnection(t.Context(), "unix://"+path)
		if err != nil {
			t.Fatal(err)
		}
		client, err := bindings.GetClient(conn)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Client.CloseIdleConnections()
		response, err := client.DoRequest(conn, nil, http.MethodGet, "/containers/%s/json", nil, nil, name)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		type health struct{ Status string }
		var found struct {
			State struct{ Health, Healthcheck health }
		}
		if err := json.NewDecoder(response.Body).Decode(&found); err != nil || found.State.Health.Status+found.State.Healthcheck.Status != "" {
			t.Errorf("podman says of its health: %+v, %v", found.State, err)
		}
	}
}

func TestAbsentSocketIsUnavailable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "podman.sock")
	client := podman.New(func() string { return path }, filepath.Join(t.TempDir(), "none.json"))
	_, err := client.List(t.Context(), wire.DeploymentRef{})
	if !errors.Is(err, container.ErrUnavailable) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestFindSocket(t *testing.T) {
	runtime := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	if got := podman.FindSocket("/explicit.sock"); got != "/explicit.sock" {
		t.Errorf("configured: got %s", got)
	}
	session := filepath.Join(runtime, "podman", "podman.sock")
	want := session
	if os.Geteuid() == 0 {
		want = podman.WorkloadSocket // root never takes a session's socket
	}
	if err := os.MkdirAll(filepath.Dir(session), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(session, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := podman.FindSocket(""); got != want {
		t.Errorf("with a session: got %s, want %s", got, want)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	if got := podman.FindSocket(""); got != podman.WorkloadSocket {
		t.Errorf("without a session: got %s", got)
	}
}
