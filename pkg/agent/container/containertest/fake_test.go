package containertest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakeConforms(t *testing.T) {
	t.Parallel()
	const image, missing = "localhost/app:1", "localhost/missing:1"
	fake := containertest.NewFake(image)
	fake.Declare(image, containertest.DeclaredPath)
	fake.Check(image, container.Probe{Exec: []string{containertest.ExitCommand, "1"}, Period: 7 * time.Second, Timeout: 3 * time.Second, Until: 5 * time.Second, Failures: 2})
	fake.PullFunc = func(_ context.Context, image string) error { return fmt.Errorf("%s: %w", image, container.ErrImage) }
	containertest.Conformance(t, containertest.Subject{
		Runtime: fake, Image: image, Missing: missing,
		Tag:   func(_ *testing.T, image, another string) { fake.Tag(image, another) },
		Sleep: []string{"sleep"},
		Exit:  func(code string) []string { return []string{containertest.ExitCommand, code} },
		Talk:  []string{containertest.TalkCommand},
		Echo:  []string{containertest.EchoCommand},
		Size:  []string{containertest.SizeCommand},
		Check: func(variable, path, content string) []string {
			return []string{containertest.CheckCommand, variable, path, content}
		},
	})
}
