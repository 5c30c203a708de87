package capture_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"fleet.nationtech.io/fleet/pkg/logging/capture"
)

// The loggers of the libraries are process-wide, so this is one test.
func TestLibrariesLogIntoOurs(t *testing.T) {
	var b bytes.Buffer
	capture.Install(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
	line := func() string {
		klog.Flush()
		s := b.String()
		b.Reset()
		return s
	}
	for name, tc := range map[string]struct {
		log  func()
		want []string
	}{
		"klog info":    {func() { klog.InfoS("hello", "key", 1) }, []string{"level=DEBUG", "msg=hello", "key=1", "component=kubernetes"}},
		"klog error":   {func() { klog.ErrorS(errors.New("broken"), "oops") }, []string{"level=ERROR", "msg=oops", "broken", "component=kubernetes"}},
		"klog text":    {func() { klog.Warningf("%d of %d", 1, 2) }, []string{"1 of 2", "component=kubernetes"}},
		"klog context": {func() { klog.Background().WithValues("a", "b").WithName("c").Info("hello") }, []string{"level=DEBUG", "a=b", "component=kubernetes"}},
		"logrus info":  {func() { logrus.Infof("hello %d", 1) }, []string{"level=DEBUG", "msg=kine", `text="hello 1"`, "component=kine"}},
		"logrus warn":  {func() { logrus.Warn("careful") }, []string{"level=WARN", "text=careful"}},
		"logrus error": {func() { logrus.Error("broken") }, []string{"level=ERROR", "text=broken"}},
	} {
		t.Run(name, func(t *testing.T) {
			line()
			tc.log()
			got := line()
			if strings.Count(got, "\n") != 1 {
				t.Errorf("logged %q, want one line", got)
			}
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("logged %q, want it to have %q", got, want)
				}
			}
		})
	}
}
