package attack_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// A list of so many objects of such a size has 5 MB, and takes ten times as
	// much while the server works on it.
	listed, listedSize = 250, 20 << 10
	// smallWait is how long a small request waits at most beside lists, where it
	// waited for seconds. The machine that works on them is shared.
	smallWait = 2 * time.Second
	// listFlood is longer than a list waits for its turn.
	listFlood = 15 * time.Second
	// listMemory is what the machine that runs this gives to lists at most, with
	// what the garbage collector leaves.
	listMemory = 1 << 30
)

// TestListsTakeNoMemory asks for everything, many times at once, and for one
// small thing beside it.
func TestListsTakeNoMemory(t *testing.T) {
	s := newSite(t)
	c := kubernetes.NewForConfigOrDie(s.rest)
	for i := range listed {
		_, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)}, Data: map[string]string{"a": strings.Repeat("x", listedSize)},
		}, metav1.CreateOptions{})
		must(t, err)
	}
	clients := 100 // more than may wait, however fast the machine is
	if scaled().strict {
		clients = 200
	}
	counters, before := s.scrape(t), inUse()
	var served, refused atomic.Int64
	var stops []func()
	for range clients {
		stops = append(stops, background(func(ctx context.Context) {
			web, err := rest.HTTPClientFor(rest.CopyConfig(s.rest))
			if err != nil {
				t.Error(err)
				return
			}
			for ctx.Err() == nil {
				switch listAll(ctx, web, s.rest.Host) {
				case http.StatusOK:
					served.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
				}
			}
		}))
	}
	var waits []time.Duration
	most := int64(0)
	for end := time.Now().Add(max(scaled().flood, listFlood)); time.Now().Before(end); {
		begin := time.Now()
		_, err := c.CoreV1().ConfigMaps("default").Get(t.Context(), "c0", metav1.GetOptions{})
		must(t, err)
		waits = append(waits, time.Since(begin))
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, int64(m.HeapInuse))
		time.Sleep(pollInterval)
	}
	var wg sync.WaitGroup
	for _, stop := range stops {
		wg.Go(stop)
	}
	wg.Wait()
	slices.Sort(waits)
	t.Logf("%d lists, %d refused; of %d small requests the slowest took %s; %d MB more", served.Load(), refused.Load(), len(waits), waits[len(waits)-1], (most-before)>>20)
	if served.Load() == 0 {
		t.Error("nobody got a list")
	}
	if slowest := waits[len(waits)-1]; slowest > smallWait {
		t.Errorf("a small request took %s", slowest)
	}
	if most-before > listMemory {
		t.Errorf("the lists took %d MB", (most-before)>>20)
	}
	s.counted(t, counters, []string{refusal("api", "rateLimited")})
}

// listAll asks for all ConfigMaps in one answer, as a client that does not try
// again.
func listAll(ctx context.Context, web *http.Client, host string) (status int) {
	return statusOf(ctx, web, http.MethodGet, host+"/api/v1/configmaps", nil)
}
