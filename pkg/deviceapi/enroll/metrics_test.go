package enroll_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
)

func TestRefusalsAreCountedByStatus(t *testing.T) {
	t.Parallel()
	r := enroll.NewRefusals()
	for _, status := range []int{http.StatusOK, http.StatusAccepted, http.StatusConflict, http.StatusConflict, http.StatusTeapot} {
		w := httptest.NewRecorder()
		r.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != status {
			t.Errorf("status is %d, want %d", w.Code, status)
		}
	}
	l := log.New(r, "", 0)
	l.Print("http: TLS handshake error from 192.0.2.1:4242: EOF")
	l.Print("http: something else")
	want := "# HELP fleet_refusals_total What was turned away, by the part of the server that did it and by reason.\n# TYPE fleet_refusals_total counter\n"
	for _, c := range []struct {
		reason string
		count  int
	}{{"nameTaken", 2}, {"other", 1}, {"tls", 1}} {
		want += fmt.Sprintf("fleet_refusals_total{reason=%q,where=\"enrollment\"} %d\n", c.reason, c.count)
	}
	if err := testutil.CollectAndCompare(r.Collectors()[0], strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
