package adminapi_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/adminapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with what it is asked, or fails.
type echo struct{ err error }

func (e echo) RotateCA(_ context.Context, r adminapi.RotateRequest) (adminapi.RotateReply, error) {
	if r.Root {
		return adminapi.RotateReply{Authorities: []string{"root"}}, e.err
	}
	return adminapi.RotateReply{}, e.err
}

func (e echo) PruneCA(_ context.Context, r adminapi.PruneRequest) (adminapi.PruneReply, error) {
	if r.Force {
		return adminapi.PruneReply{Forgotten: []string{"root"}}, e.err
	}
	return adminapi.PruneReply{Kept: []adminapi.Kept{{Name: "root", Devices: []string{"a"}, Tokens: []string{"t"}, Until: time.Unix(1, 0).UTC()}}}, e.err
}

func (e echo) IssueReader(_ context.Context, r adminapi.ReaderRequest) (adminapi.ReaderReply, error) {
	return adminapi.ReaderReply{Certificate: r.Name, Key: "k", Roots: "r", Server: (time.Duration(r.TTLSeconds) * time.Second).String()}, e.err
}

func (e echo) Clock(context.Context, struct{}) (adminapi.ClockReply, error) {
	return adminapi.ClockReply{Time: time.Unix(1, 0).UTC(), Insane: "why"}, e.err
}

func (e echo) AcceptClock(context.Context, struct{}) (adminapi.ClockReply, error) {
	return adminapi.ClockReply{Time: time.Unix(2, 0).UTC()}, e.err
}

func (e echo) Gateway(context.Context, struct{}) (adminapi.GatewayReply, error) {
	return adminapi.GatewayReply{URL: "https://g:8443", Pin: "p", Installer: true}, e.err
}

func serve(t testing.TB, h http.Handler) *adminapi.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &adminapi.Client{HTTP: s.Client(), Host: s.URL + "/"}
}

// asked is every request, and what became of it.
func asked(ctx context.Context, s adminapi.Server) (replies []any, errs []error) {
	for _, f := range []func() (any, error){
		func() (any, error) { return s.RotateCA(ctx, adminapi.RotateRequest{Root: true}) },
		func() (any, error) { return s.RotateCA(ctx, adminapi.RotateRequest{}) },
		func() (any, error) { return s.PruneCA(ctx, adminapi.PruneRequest{Force: true}) },
		func() (any, error) { return s.PruneCA(ctx, adminapi.PruneRequest{}) },
		func() (any, error) { return s.IssueReader(ctx, adminapi.ReaderRequest{Name: "n", TTLSeconds: 60}) },
		func() (any, error) { return s.Clock(ctx, struct{}{}) },
		func() (any, error) { return s.AcceptClock(ctx, struct{}{}) },
		func() (any, error) { return s.Gateway(ctx, struct{}{}) },
	} {
		reply, err := f()
		replies, errs = append(replies, reply), append(errs, err)
	}
	return replies, errs
}

func TestClientAsksServer(t *testing.T) {
	t.Parallel()
	want, _ := asked(t.Context(), echo{})
	got, errs := asked(t.Context(), serve(t, adminapi.NewHandler(echo{})))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("replies (-want +got):\n%s", diff)
	}
}

func TestFailuresAreSaid(t *testing.T) {
	t.Parallel()
	const reason = "the disk is full: make room"
	_, errs := asked(t.Context(), serve(t, adminapi.NewHandler(echo{errors.New(reason)})))
	for i, err := range errs {
		if err == nil || err.Error() != reason {
			t.Errorf("request %d: error is %v", i, err)
		}
	}
	_, errs = asked(t.Context(), serve(t, http.NotFoundHandler()))
	for i, err := range errs {
		if !errors.Is(err, adminapi.ErrUnsupported) {
			t.Errorf("request %d to another server: error is %v", i, err)
		}
	}
	forbid := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	if _, err := serve(t, forbid).Clock(t.Context(), struct{}{}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("error is %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	h := adminapi.NewHandler(echo{})
	for name, tc := range map[string]struct {
		method, path, body string
		want               int
	}{
		"right":     {http.MethodPost, "ca/rotate", `{"root":true}`, http.StatusOK},
		"method":    {http.MethodGet, "ca/rotate", `{}`, http.StatusMethodNotAllowed},
		"path":      {http.MethodPost, "ca", `{}`, http.StatusNotFound},
		"empty":     {http.MethodPost, "ca/rotate", ``, http.StatusBadRequest},
		"unknown":   {http.MethodPost, "ca/rotate", `{"rot":true}`, http.StatusBadRequest},
		"too large": {http.MethodPost, "ca/rotate", `{"root":` + strings.Repeat(" ", 5000) + `true}`, http.StatusRequestEntityTooLarge},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tc.method, adminapi.Path+tc.path, strings.NewReader(tc.body)))
		if w.Code != tc.want {
			t.Errorf("%s: answer is %d %s, want %d", name, w.Code, w.Body, tc.want)
		}
	}
}
