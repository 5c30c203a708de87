package enroll

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/refusals"
)

// Refusals counts what the enrollment listener turns away. It is an http
// middleware, and the writer of an http.Server's ErrorLog, which alone tells of
// handshakes that failed.
type Refusals struct{ counter *prometheus.CounterVec }

// NewRefusals returns counters at zero.
func NewRefusals() *Refusals { return &Refusals{counter: refusals.New(refusals.Enrollment)} }

// Collectors are the metrics.
func (r *Refusals) Collectors() []prometheus.Collector { return []prometheus.Collector{r.counter} }

// refusalReasons names statuses of 400 and more as refusals are named on the wire.
var refusalReasons = map[int]string{
	http.StatusBadRequest:          "badRequest",
	http.StatusUnauthorized:        "credentials",
	http.StatusForbidden:           "forbidden",
	http.StatusNotFound:            "path",
	http.StatusMethodNotAllowed:    "method",
	http.StatusConflict:            "nameTaken",
	http.StatusTooManyRequests:     "rateLimited",
	http.StatusServiceUnavailable:  "unavailable",
	http.StatusInsufficientStorage: "unavailable",
}

// Handler counts what next refuses.
func (r *Refusals) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		next.ServeHTTP(&countingWriter{ResponseWriter: w, refusals: r}, req)
	})
}

// Count counts a connection that was turned away.
func (r *Refusals) Count(reason string) { r.counter.WithLabelValues(reason).Inc() }

// Write implements io.Writer for lines of an http.Server's log.
func (r *Refusals) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "TLS handshake error") {
		r.counter.WithLabelValues("tls").Inc()
	}
	return len(line), nil
}

// countingWriter counts the status of a refused request.
type countingWriter struct {
	http.ResponseWriter
	refusals *Refusals
}

// WriteHeader implements http.ResponseWriter.
func (w *countingWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		reason, known := refusalReasons[status]
		if !known {
			reason = "other"
		}
		w.refusals.counter.WithLabelValues(reason).Inc()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
