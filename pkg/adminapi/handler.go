package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
)

// Server does what is asked. Errors are shown to the operator.
type Server interface {
	RotateCA(ctx context.Context, req RotateRequest) (RotateReply, error)
	PruneCA(ctx context.Context, req PruneRequest) (PruneReply, error)
	IssueReader(ctx context.Context, req ReaderRequest) (ReaderReply, error)
	Clock(ctx context.Context, req struct{}) (ClockReply, error)
	AcceptClock(ctx context.Context, req struct{}) (ClockReply, error)
	Gateway(ctx context.Context, req struct{}) (GatewayReply, error)
}

// NewHandler returns a handler for everything below Path. It asks nobody for
// their rights: who mounts it does.
func NewHandler(s Server) http.Handler {
	mux := http.NewServeMux()
	handle(mux, pathRotate, s.RotateCA)
	handle(mux, pathPrune, s.PruneCA)
	handle(mux, pathReader, s.IssueReader)
	handle(mux, pathClock, s.Clock)
	handle(mux, pathAcceptClock, s.AcceptClock)
	handle(mux, pathGateway, s.Gateway)
	return mux
}

func handle[Req, Reply any](mux *http.ServeMux, path string, do func(context.Context, Req) (Reply, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxRequest)); err != nil {
			answer(w, http.StatusRequestEntityTooLarge, Failure{Message: "the request is too long"})
			return
		}
		var req Req
		dec := json.NewDecoder(&body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			answer(w, http.StatusBadRequest, Failure{Message: "the request is malformed: is the command as old as the server? " + err.Error()})
			return
		}
		reply, err := do(r.Context(), req)
		if err != nil {
			answer(w, http.StatusConflict, Failure{Message: err.Error()})
			return
		}
		answer(w, http.StatusOK, reply)
	})
}

func answer(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(content) // the client is gone: nothing to do
}
