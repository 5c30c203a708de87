package files_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/files"
	driver "fleet.nationtech.io/fleet/pkg/agent/interpreter"
	"fleet.nationtech.io/fleet/pkg/agent/interpreter/interpretertest"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// owners are those of whoever tests, who need not be root.
func owners() string { return fmt.Sprintf(`"owner": "%d", "group": "%d"`, os.Getuid(), os.Getgid()) }

func newFiles(t *testing.T) (*files.Files, string) {
	t.Helper()
	root := t.TempDir()
	return &files.Files{Dir: t.TempDir(), Roots: []string{root}, Log: slog.New(slog.DiscardHandler)}, root
}

// FilesV0 through its socket passes what every driver passes.
func TestFilesConform(t *testing.T) {
	t.Parallel()
	f, root := newFiles(t)
	cfg := interpretertest.Serve(t, f, score.TypeFilesV0)
	// Each Deployment of the suite has a file of its own: the paths are by what is asked for
	// first, and the suite removes what it made.
	workloadtest.Conformance(t, workloadtest.Subject{
		New: func() workload.Driver { return driver.New(cfg) },
		ScoreOf: func(ref wire.DeploymentRef, version int) wire.Score {
			return wire.Score{Type: score.TypeFilesV0, Data: fmt.Appendf(nil, `{"files":[{"path":%q,"content":"version %d",%s},{"path":%q,"content":"",%s}]}`,
				filepath.Join(root, ref.Name, "a", "one.conf"), version, owners(), filepath.Join(root, ref.Name, fmt.Sprint(version)), owners())}
		},
		Bad: wire.Score{Type: score.TypeFilesV0, Data: []byte(`{"files":[{"path":"/x","content":"","mode":2048}]}`)},
		Break: func(t *testing.T, ref wire.DeploymentRef) {
			if err := os.Remove(filepath.Join(root, ref.Name, "a", "one.conf")); err != nil {
				t.Fatal(err)
			}
		},
	})
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
