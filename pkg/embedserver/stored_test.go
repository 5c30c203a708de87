package embedserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/embedserver"
)

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex // guards all
	all []string
}

// Write implements io.Writer.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(line))
	return len(line), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "")
}

// run runs a server until f returns, and returns what it logged.
func run(t *testing.T, dir string, f func(embedserver.Ready)) string {
	t.Helper()
	log := &lines{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	err := embedserver.Run(ctx, embedserver.Config{
		DataDir: dir, APIListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", EnrollListen: "127.0.0.1:0",
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, func(r embedserver.Ready) { f(r); stop() })
	if err != nil {
		t.Fatalf("%v: %s", err, log)
	}
	return log.String()
}

// A server begins with the Devices of its store, and does not have the API list them.
func TestStartReadsTheDevicesOfTheStore(t *testing.T) {
	dir := t.TempDir()
	const devices = 3
	run(t, dir, func(r embedserver.Ready) {
		config, err := clientcmd.BuildConfigFromFlags("", r.Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		api, err := client.New(config)
		if err != nil {
			t.Fatal(err)
		}
		for i := range devices {
			if _, err := api.Devices().Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("device-%d", i)}}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	log := run(t, dir, func(embedserver.Ready) {})
	if want := fmt.Sprintf(`msg="read the Devices of the store" component=stored-devices devices=%d`, devices); !strings.Contains(log, want) {
		t.Errorf("the log does not say %s:\n%s", want, log)
	}
}
