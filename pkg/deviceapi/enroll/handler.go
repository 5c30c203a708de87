package enroll

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/handshake"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Lines a second about refusals in the log, and how many at once. Anybody can
// cause one: those of strangers do not hide those of whoever has a token or a
// certificate.
const lineRate, lineBurst = 10, 100

// asker is who asks, as far as that was proved when the request was refused.
type asker struct{ device, token string }

// retryAfter is how many seconds a client waits that is told to come back. Agents wait
// longer and longer, each for a time of its own.
const retryAfter = "5"

// Bounds of a nonce in bytes.
const minNonce, maxNonce = 16, 64

// HandlerConfig is what a Handler needs.
type HandlerConfig struct {
	Service *enrollment.Service
	// Servers are the URLs of NATS for a device that reached this server by the name of host.
	Servers func(host string) []string
	// Hosts returns the names and addresses of this server's certificate.
	Hosts func() []string
	// Signer returns the key of this server's certificate.
	Signer func() (crypto.Signer, error)
}

// Handler serves the paths of enrollment.
type Handler struct {
	HandlerConfig

	// strangers are those that are wrong about a token, public those that ask for
	// what anybody may know.
	strangers   *rate.Limiter
	public      *budgets      // of each host
	lines       *rate.Limiter // about strangers
	knownLines  *rate.Limiter
	enrollments *budgets
	deciding    chan struct{}
	// renewals and times are for devices that may come in, outsiders is for the
	// holders of certificates that are good no more.
	renewals  *budgets
	times     *budgets
	outsiders *budgets
	metrics   *metrics
	mux       *http.ServeMux
}

// NewHandler returns a handler.
func NewHandler(c HandlerConfig) *Handler {
	h := &Handler{
		HandlerConfig: c,
		strangers:     rate.NewLimiter(strangerRate, strangerBurst),
		public:        newBudgets(publicRate, publicBurst, hostRate, hostBurst),
		lines:         rate.NewLimiter(lineRate, lineBurst),
		knownLines:    rate.NewLimiter(lineRate, lineBurst),
		enrollments:   newBudgets(enrollRate, enrollBurst, tokenRate, tokenBurst),
		deciding:      make(chan struct{}, maxDeciding),
		renewals:      newBudgets(renewRate, renewBurst, deviceRate, deviceBurst),
		times:         newBudgets(publicRate, publicBurst, deviceTimeRate, deviceTimeBurst),
		outsiders:     newBudgets(outsiderRate, outsiderBurst, deviceRate, deviceBurst),
		metrics:       newMetrics(), mux: http.NewServeMux(),
	}
	h.mux.HandleFunc("GET "+wire.PathCA, h.ca)
	h.mux.HandleFunc("GET "+wire.PathTime, h.time)
	h.mux.HandleFunc("POST "+wire.PathEnroll, h.serve("enroll", wire.MaxEnrollRequest, h.enroll))
	h.mux.HandleFunc("POST "+wire.PathRenew, h.serve("renew", wire.MaxRenewRequest, h.renew))
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) ca(w http.ResponseWriter, r *http.Request) {
	if !h.public.take(hostOf(r)) {
		h.turnAway(w, "ca")
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(h.Service.PKI.RootsPEM()) // the client is gone: nothing to do
}

// turnAway refuses a stranger who asks too often, and ends the connection: over the
// same one, each refusal would cost nothing but the server's time.
func (h *Handler) turnAway(w http.ResponseWriter, what string) {
	w.Header().Set("Connection", "close")
	h.refuse(w, what, tooMany())
}

// time signs the server's clock for a device that cannot trust its own.
func (h *Handler) time(w http.ResponseWriter, r *http.Request) {
	if !h.mayAskTime(r) {
		h.turnAway(w, "time")
		return
	}
	nonce, err := hex.DecodeString(r.URL.Query().Get(wire.QueryNonce))
	if err != nil || len(nonce) < minNonce || len(nonce) > maxNonce {
		h.refuse(w, "time", &wire.Refusal{Code: wire.RefusedBadRequest, Message: fmt.Sprintf("?%s= must be %d to %d bytes in hex", wire.QueryNonce, minNonce, maxNonce)})
		return
	}
	signed, err := h.sign(nonce)
	if err != nil {
		h.Service.Logger.Error("signing the time", "error", err)
		h.refuse(w, "time", unavailable())
		return
	}
	h.metrics.count("time", "ok")
	h.reply(w, http.StatusOK, signed)
}

// mayAskTime: a device that cannot trust its clock has to get through while
// strangers ask as well.
func (h *Handler) mayAskTime(r *http.Request) bool {
	if holder, err := h.identify(r); err == nil && h.Service.MayComeIn(holder) && h.times.take(holder.Device) {
		return true
	}
	return h.public.take(hostOf(r))
}

// Holder returns the device whose certificate a request came with, if it may
// come in.
func (h *Handler) Holder(r *http.Request) (device string, ok bool) {
	holder, err := h.identify(r)
	if err != nil || !h.Service.MayComeIn(holder) {
		return "", false
	}
	return holder.Device, true
}

func chainOf(r *http.Request) []*x509.Certificate {
	if r.TLS == nil {
		return nil
	}
	return r.TLS.PeerCertificates
}

func (h *Handler) sign(nonce []byte) (*wire.SignedTime, error) {
	key, err := h.Signer()
	if err != nil {
		return nil, err
	}
	now := h.Service.Clock.Now().UTC()
	sum := sha256.Sum256(wire.SignedTimePayload(nonce, now))
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	return &wire.SignedTime{Time: now, Signature: signature}, err
}

// serve reads a request and writes what handle makes of it.
func (h *Handler) serve(what string, limit int64, handle func(*http.Request, []byte, *asker) (*wire.EnrollReply, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
		if err != nil {
			return // the client is gone
		}
		var who asker
		reply, err := handle(r, body, &who)
		refusal, refused := errors.AsType[*wire.Refusal](err)
		full := noRoom(err)
		switch {
		case errors.Is(err, context.Canceled): // the client is gone
		case refused:
			h.logRefusal(what, r, who, refusal)
			h.refuse(w, what, refusal)
		case full != nil:
			h.logRefusal(what, r, who, full)
			h.metrics.count(what, string(full.Code))
			h.reply(w, http.StatusInsufficientStorage, &wire.EnrollReply{Error: full})
		case err != nil:
			h.Service.Logger.Error("answering a device", "request", what, "remote", r.RemoteAddr, "error", err)
			h.refuse(w, what, unavailable())
		case reply.Error != nil:
			h.metrics.count(what, string(reply.Error.Code))
			h.reply(w, refusalStatus[reply.Error.Code], reply)
		case reply.Pending:
			h.metrics.count(what, "pending")
			h.reply(w, http.StatusAccepted, reply)
		default:
			h.metrics.count(what, "ok")
			reply.Servers = h.Servers(h.HostFor(r))
			h.reply(w, http.StatusOK, reply)
		}
	}
}

// noRoom returns what a device is told when the API store has no room: the device did
// nothing wrong, and its user has to know where to look. It returns nil for other errors.
func noRoom(err error) *wire.Refusal {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok || status.ErrStatus.Code != http.StatusInsufficientStorage {
		return nil
	}
	return &wire.Refusal{Code: wire.RefusedUnavailable, Message: "the gateway cannot take this: " + status.ErrStatus.Message}
}

// logRefusal writes who was refused what, and why. What is too much for the log
// is counted all the same.
func (h *Handler) logRefusal(what string, r *http.Request, who asker, refusal *wire.Refusal) {
	lines, log := h.lines, h.Service.Logger.With("request", what, "remote", r.RemoteAddr)
	if who.token != "" {
		lines, log = h.knownLines, log.With("token_id", who.token)
	}
	if who.device != "" {
		lines, log = h.knownLines, log.With("device", who.device)
	}
	if lines.Allow() {
		log.Info("refused", "code", refusal.Code, "reason", refusal.Message)
	}
}

func (h *Handler) enroll(r *http.Request, body []byte, who *asker) (*wire.EnrollReply, error) {
	req, err := wire.Decode[wire.EnrollRequest](body, wire.MaxEnrollRequest)
	if err != nil {
		return nil, &wire.Refusal{Code: wire.RefusedBadRequest, Message: err.Error()}
	}
	// The token first: strangers must not make the server verify signatures.
	shown, err := wire.ParseToken(req.Token)
	if err != nil {
		return nil, &wire.Refusal{Code: wire.RefusedBadRequest, Message: err.Error()}
	}
	token, err := h.Service.FindToken(r.Context(), shown, h.strangers.Allow)
	if err != nil {
		return nil, err
	}
	who.token = token.Name
	if !h.enrollments.has(token.Name) {
		return nil, tooManyEnroll()
	}
	reply, used, err := h.decide(r, req, shown, who)
	// What uses the token is bounded by its uses, and has to be as fast as it can.
	if !used {
		h.enrollments.take(token.Name)
	}
	return reply, err
}

// decide answers whoever has a token, and reports whether that was one more use of it.
func (h *Handler) decide(r *http.Request, req wire.EnrollRequest, token wire.Token, who *asker) (reply *wire.EnrollReply, used bool, err error) {
	a, err := enrollment.Parse(req, token, addressOf(r))
	if err != nil {
		return nil, false, err
	}
	who.device = a.Device
	done, ok := h.turn(r.Context())
	if !ok {
		return nil, false, tooManyEnroll()
	}
	defer done()
	return h.Service.Enroll(r.Context(), a)
}

// addressOf is the address that a request came from, for people.
func addressOf(r *http.Request) string {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return from.Addr().Unmap().String()
}

// identify returns who presented a certificate.
func (h *Handler) identify(r *http.Request) (*enrollment.Holder, error) {
	return h.Service.Identify(chainOf(r), r.Header.Get(wire.HeaderSession), addressOf(r))
}

// hostOf is the network of the host that a request comes from.
func hostOf(r *http.Request) string { return handshake.Host(r.RemoteAddr) }

// strays makes the name for the budget of all that have a device's certificate and
// are not known to be the device: a copy of it uses up nothing of the device's.
const strays = " strays"

func (h *Handler) renew(r *http.Request, body []byte, who *asker) (*wire.EnrollReply, error) {
	holder, err := h.identify(r)
	if err != nil {
		return nil, err
	}
	who.device = holder.Device
	budget := h.outsiders
	if h.Service.MayComeIn(holder) {
		budget = h.renewals
	}
	owner := holder.Device
	if !h.Service.IsDevice(holder) {
		owner += strays
	}
	if !budget.take(owner) {
		return nil, &wire.Refusal{Code: wire.RefusedRateLimited, Message: "the device asks too often: try again in some minutes"}
	}
	req, err := wire.Decode[wire.RenewRequest](body, wire.MaxRenewRequest)
	if err != nil {
		return nil, &wire.Refusal{Code: wire.RefusedBadRequest, Message: err.Error()}
	}
	return h.Service.Renew(r.Context(), holder, req)
}

// HostFor returns the name by which the device reached this server, which is
// the one name that is known to work for it, as long as the certificate has it.
func (h *Handler) HostFor(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	hosts := h.Hosts()
	if slices.Contains(hosts, host) {
		return host
	}
	return hosts[0]
}

func tooMany() *wire.Refusal {
	return &wire.Refusal{Code: wire.RefusedRateLimited, Message: "too many requests at this moment: try again later"}
}

func tooManyEnroll() *wire.Refusal {
	return &wire.Refusal{Code: wire.RefusedRateLimited, Message: "too many devices enroll at this moment: try again later"}
}

func unavailable() *wire.Refusal {
	return &wire.Refusal{Code: wire.RefusedUnavailable, Message: "the server cannot do this at the moment: try again later"}
}

var refusalStatus = map[wire.RefusalCode]int{
	wire.RefusedBadRequest:  http.StatusBadRequest,
	wire.RefusedToken:       http.StatusForbidden,
	wire.RefusedRevoked:     http.StatusForbidden,
	wire.RefusedQuarantined: http.StatusForbidden,
	wire.RefusedKey:         http.StatusConflict,
	wire.RefusedNameTaken:   http.StatusConflict,
	wire.RefusedRateLimited: http.StatusTooManyRequests,
	wire.RefusedUnavailable: http.StatusServiceUnavailable,
}

func (h *Handler) refuse(w http.ResponseWriter, what string, refusal *wire.Refusal) {
	h.metrics.count(what, string(refusal.Code))
	h.reply(w, refusalStatus[refusal.Code], &wire.EnrollReply{Error: refusal})
}

func (h *Handler) reply(w http.ResponseWriter, status int, reply any) {
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusTooManyRequests || status >= http.StatusInternalServerError {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the client is gone: nothing to do
}
