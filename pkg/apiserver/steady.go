package apiserver

import (
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// stallTime is how long a client may take for one piece of an answer. Without a
// bound, the events of a watch that nobody reads, as of a kubectl that was suspended,
// wait in memory, and become more with each write of anybody.
const stallTime = time.Minute

// steady lets a response end whose client has stopped reading.
func steady(w http.ResponseWriter, stall time.Duration) http.ResponseWriter {
	return responsewriter.WrapForHTTP1Or2(&steadyWriter{w, http.NewResponseController(w), stall})
}

type steadyWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
}

// Write implements io.Writer.
func (w *steadyWriter) Write(p []byte) (int, error) {
	defer w.limit()()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *steadyWriter) Flush() {
	defer w.limit()()
	_ = w.control.Flush() // the next piece fails as well
}

// limit bounds the time of a piece, until the returned function is called: between
// two events of a watch there may be hours. Not every writer can bound it.
func (w *steadyWriter) limit() (lift func()) {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.stall))
	return func() { _ = w.control.SetWriteDeadline(time.Time{}) }
}

// Unwrap is for http.ResponseController.
func (w *steadyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
