package workloadtest_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFilesConform(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	workloadtest.Conformance(t, workloadtest.Subject{
		New: func() workload.Driver { return &workloadtest.Files{Dir: dir} },
		Score: func(version int) wire.Score {
			return wire.Score{Type: workloadtest.TypeFileV0, Data: fmt.Appendf(nil, `{"content":"version %d"}`, version)}
		},
		Bad: wire.Score{Type: workloadtest.TypeFileV0, Data: []byte(`{}`)},
		Break: func(t *testing.T, ref wire.DeploymentRef) {
			if err := os.Remove((&workloadtest.Files{Dir: dir}).Path(ref)); err != nil {
				t.Fatal(err)
			}
		},
	})
}
