package enroll

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// Enrollments a second over all clients, and how many may come at once. Each
	// costs up to four API reads and three writes: some 10 ms of a small gateway.
	requestRate  = 50
	requestBurst = 500
)

// Handler serves the paths of enrollment.
type Handler struct {
	service *Service
	limiter *rate.Limiter
	// natsPort is where devices connect on the host that they enrolled at.
	natsPort string
	// hosts are the names and addresses of this server's certificate.
	hosts []string
	mux   *http.ServeMux
}

// NewHandler returns a handler. natsPort is the port of the broker, hosts are
// what the serving certificate names.
func NewHandler(s *Service, natsPort string, hosts []string) *Handler {
	h := &Handler{
		service: s, limiter: rate.NewLimiter(requestRate, requestBurst),
		natsPort: natsPort, hosts: hosts, mux: http.NewServeMux(),
	}
	h.mux.HandleFunc("GET "+wire.PathCA, h.ca)
	h.mux.HandleFunc("POST "+wire.PathEnroll, h.enroll)
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) ca(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(h.service.PKI.RootPEM()) // the client is gone: nothing to do
}

func (h *Handler) enroll(w http.ResponseWriter, r *http.Request) {
	if !h.limiter.Allow() {
		h.refuse(w, &wire.Refusal{Code: wire.RefusedRateLimited, Message: "too many devices enroll at this moment: try again later"})
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxEnrollRequest+1))
	if err != nil {
		return // the client is gone
	}
	req, err := wire.Decode[wire.EnrollRequest](body, wire.MaxEnrollRequest)
	if err != nil {
		h.refuse(w, &wire.Refusal{Code: wire.RefusedBadRequest, Message: err.Error()})
		return
	}
	reply, err := h.service.Enroll(r.Context(), req)
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
		h.service.Logger.Info("enrollment refused", "remote", r.RemoteAddr, "code", refusal.Code, "reason", refusal.Message)
		h.refuse(w, refusal)
		return
	}
	if err != nil {
		h.service.Logger.Error("enrolling a device", "remote", r.RemoteAddr, "error", err)
		h.refuse(w, &wire.Refusal{Code: wire.RefusedUnavailable, Message: "the server cannot enroll devices at the moment: try again later"})
		return
	}
	status := http.StatusOK
	if reply.Pending {
		status = http.StatusAccepted
	} else {
		reply.Servers = []string{"tls://" + net.JoinHostPort(h.hostFor(r), h.natsPort)}
	}
	h.reply(w, status, reply)
}

// hostFor returns the name by which the device reached this server, which is
// the one name that is known to work for it, as long as the certificate has it.
func (h *Handler) hostFor(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if slices.Contains(h.hosts, host) {
		return host
	}
	return h.hosts[0]
}

var refusalStatus = map[wire.RefusalCode]int{
	wire.RefusedBadRequest:  http.StatusBadRequest,
	wire.RefusedToken:       http.StatusForbidden,
	wire.RefusedRevoked:     http.StatusForbidden,
	wire.RefusedNameTaken:   http.StatusConflict,
	wire.RefusedRateLimited: http.StatusTooManyRequests,
	wire.RefusedUnavailable: http.StatusServiceUnavailable,
}

func (h *Handler) refuse(w http.ResponseWriter, refusal *wire.Refusal) {
	h.reply(w, refusalStatus[refusal.Code], &wire.EnrollReply{Error: refusal})
}

func (h *Handler) reply(w http.ResponseWriter, status int, reply *wire.EnrollReply) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the client is gone: nothing to do
}
