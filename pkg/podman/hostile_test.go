package podman_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// impostor is what a container that broke out can put in podman's place.
func impostor(t *testing.T, answer http.HandlerFunc) *podman.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "podman.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed below
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	client := podman.New(func() string { return socket }, "")
	client.SetGroups(t.TempDir()) // where there are none
	t.Cleanup(client.Close)
	return client
}

// calls are all that a client asks of podman.
var calls = map[string]func(context.Context, *podman.Client) error{
	"info": func(ctx context.Context, c *podman.Client) error { _, err := c.Info(ctx); return err },
	"list": func(ctx context.Context, c *podman.Client) error {
		_, err := c.List(ctx, wire.DeploymentRef{})
		return err
	},
	"volumes": func(ctx context.Context, c *podman.Client) error {
		_, err := c.Volumes(ctx, wire.DeploymentRef{})
		return err
	},
	"secrets": func(ctx context.Context, c *podman.Client) error {
		_, err := c.Secrets(ctx, wire.DeploymentRef{})
		return err
	},
	"create": func(ctx context.Context, c *podman.Client) error {
		_, err := c.Create(ctx, &container.Spec{Image: "localhost/a:1"})
		return err
	},
	"start":  func(ctx context.Context, c *podman.Client) error { return c.Start(ctx, "a") },
	"init":   func(ctx context.Context, c *podman.Client) error { return c.Init(ctx, "a") },
	"rename": func(ctx context.Context, c *podman.Client) error { return c.Rename(ctx, "a", "b") },
	"stop":   func(ctx context.Context, c *podman.Client) error { return c.Stop(ctx, "a", 0) },
	"remove": func(ctx context.Context, c *podman.Client) error { return c.Remove(ctx, "a") },
	"exists": func(ctx context.Context, c *podman.Client) error {
		_, err := c.ImageExists(ctx, "localhost/a:1")
		return err
	},
	"pull": func(ctx context.Context, c *podman.Client) error { return c.Pull(ctx, "localhost/a:1") },
	"volume": func(ctx context.Context, c *podman.Client) error {
		_, err := c.EnsureVolume(ctx, wire.DeploymentRef{}, "a", "", 0)
		return err
	},
	"secret": func(ctx context.Context, c *podman.Client) error { return c.EnsureSecret(ctx, "a", nil) },
	"attach": func(ctx context.Context, c *podman.Client) error {
		_, err := c.Attach(ctx, "a", container.Attachment{Command: []string{"a"}, Out: io.Discard, Err: io.Discard})
		return err
	},
	"logs": func(ctx context.Context, c *podman.Client) error {
		return c.Logs(ctx, "a", container.LogOptions{}, func(container.Piece) error { return nil })
	},
	"watch": func(ctx context.Context, c *podman.Client) error { return watch(ctx, c) },
}

func watch(ctx context.Context, c *podman.Client) error {
	return c.Watch(ctx, func() {}, func(wire.DeploymentRef) {})
}

// mostRead is more than any answer may have.
const mostRead = 100 << 20

// TestAnEndlessAnswerIsNotReadToItsEnd: each of these once filled the memory of
// the device.
func TestAnEndlessAnswerIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	object := `{"Id":"` + strings.Repeat("a", 64) + `"},`
	for name, answer := range map[string]struct {
		status       int
		start, again string
	}{
		"text":         {200, `{"error":"`, strings.Repeat("x", 1<<16)},
		"list":         {200, `[`, strings.Repeat(object, 1<<10)},
		"labels":       {200, `{"Config":{"Labels":{`, strings.Repeat(`"a":"",`, 1<<13)},
		"event":        {200, `{"Actor":{"Attributes":{`, strings.Repeat(`"a":"",`, 1<<13)},
		"nothing":      {200, ``, strings.Repeat(" ", 1<<16)},
		"nesting":      {200, ``, strings.Repeat(`[`, 1<<16)},
		"failure":      {500, `{"message":"`, strings.Repeat("x", 1<<16)},
		"missing":      {404, ``, strings.Repeat("x", 1<<16)},
		"a wrong kind": {302, ``, strings.Repeat("x", 1<<16)},
	} {
		for call, do := range calls {
			t.Run(name+"/"+call, func(t *testing.T) {
				t.Parallel()
				var sent atomic.Int64
				c := impostor(t, func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(answer.status)
					part := answer.start
					for sent.Load() < 2*mostRead {
						n, err := w.Write([]byte(part))
						sent.Add(int64(n))
						if err != nil {
							return
						}
						part = answer.again
					}
				})
				err := do(t.Context(), c)
				if err == nil {
					t.Error("it is taken for an answer")
				}
				if err != nil && (len(err.Error()) > 4<<10 || strings.Contains(err.Error(), "\n")) {
					t.Errorf("the error has %d bytes: %.200q", len(err.Error()), err)
				}
				if n := sent.Load(); n > mostRead {
					t.Errorf("%d bytes were read", n)
				}
			})
		}
	}
}

// TestAnEndlessHeaderIsNotReadToItsEnd.
func TestAnEndlessHeaderIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	c := impostor(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 1 << 10 {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1<<10))
		}
		_, _ = w.Write([]byte(`{}`)) // the client has gone
	})
	if _, err := c.Info(t.Context()); err == nil {
		t.Error("a header of a megabyte is read")
	}
}

// TestASlowAnswerIsGivenUp: nothing that the agent asks waits for ever, although
// podman says a little all the time.
func TestASlowAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	for call, do := range calls {
		if call == "pull" || call == "watch" {
			continue // they may last; their callers bound the former
		}
		for name, patience := range map[string]time.Duration{"by the client": 50 * time.Millisecond, "by the caller": time.Minute} {
			t.Run(call+"/"+name, func(t *testing.T) {
				t.Parallel()
				c := impostor(t, dribble)
				c.SetPatience(patience)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if patience == time.Minute {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
				}
				defer cancel()
				began := time.Now()
				if err := do(ctx, c); err == nil || time.Since(began) > 5*time.Second {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			})
		}
	}
}

func dribble(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _ = w.Write([]byte(" ")) // the request ends with the connection
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// TestAWatchMustBegin: a podman that never answers the question for events must
// not be waited for.
func TestAWatchMustBegin(t *testing.T) {
	t.Parallel()
	c := impostor(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c.SetPatience(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := watch(ctx, c); !errors.Is(err, container.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// TestAFloodOfEventsIsSlowedDown.
func TestAFloodOfEventsIsSlowedDown(t *testing.T) {
	t.Parallel()
	c := impostor(t, func(w http.ResponseWriter, r *http.Request) {
		event := strings.Repeat(`{"Actor":{"Attributes":{"`+container.LabelDeployment+`":"shop_web"}}}`+"\n", 100)
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(event)); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	seen := 0
	err := c.Watch(ctx, func() {}, func(wire.DeploymentRef) { seen++ })
	if seen == 0 || seen > 400 {
		t.Errorf("%d events in a second: %v", seen, err)
	}
}

// TestWhatIsKeptOfContainersIsBounded: each answer may be short, and all of them
// together too much.
func TestWhatIsKeptOfContainersIsBounded(t *testing.T) {
	t.Parallel()
	ids := make([]string, 64)
	for i := range ids {
		ids[i] = fmt.Sprintf(`{"Id":"%064x"}`, i)
	}
	mounts := strings.Repeat(`{"Type":"bind","Source":"`+strings.Repeat("x", 4000)+`"},`, 100)
	for name, tt := range map[string]struct {
		mounts string
		works  bool
	}{"little": {"", true}, "much": {mounts, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := impostor(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/containers/json") {
					fmt.Fprintf(w, "[%s]", strings.Join(ids, ","))
					return
				}
				fmt.Fprintf(w, `{"Id":"%064x","Config":{"Labels":{"%s":"shop_web"}},"Mounts":[%s]}`, 1, container.LabelDeployment, strings.TrimSuffix(tt.mounts, ","))
			})
			list, err := c.List(t.Context(), wire.DeploymentRef{})
			if (err == nil) != tt.works || tt.works && len(list) != len(ids) {
				t.Errorf("%d containers: %v", len(list), err)
			}
		})
	}
}

// TestAnswersOfAnyKind: whatever answers, the agent goes on. It is no fuzz target,
// since the bindings would have to be built once more for one.
func TestAnswersOfAnyKind(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("a", 64)
	pieces := []string{
		``, ` `, `null`, `{}`, `[]`, `{`, `}`, `[`, `]`, `,`, `:`, `"`, `7`, `-1e999`, `true`, "\xff", "\x00", "\n",
		`{"store":null}`, `{"store":{"graphRoot":"relative","graphRootUsed":-1}}`, `[{"Id":"` + id + `"}]`, `{"Id":"../x"}`, `[{"Spec":null}]`, `[{"Err":{"a":[1]}}]`,
		`{"Id":"` + id + `","Config":null,"State":null,"Mounts":null}`, `{"Config":{"Labels":{"` + container.LabelDeployment + `":7}}}`, `{"Mounts":[null,{"Type":"bind"}]}`,
		`{"Created":"9999-12-31T23:59:59-23:59","State":{"StartedAt":"0000-01-01T00:00:00+23:59"},"Config":{"Labels":{"` + container.LabelDeployment + `":"a_b"}}}`,
		`{"message":"x"}`, `{"error":"x"}`, `{"error":""}`, `{"Actor":{"Attributes":[]}}`, `{"Actor":{"Attributes":{"` + container.LabelDeployment + `":"a_b"}}}`,
	}
	var answer atomic.Pointer[string]
	var status atomic.Int64
	var lists atomic.Bool
	c := impostor(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(status.Load()))
		body := *answer.Load()
		if lists.Load() && strings.HasSuffix(r.URL.Path, "/containers/json") {
			body = `[{"Id":"` + id + `"}]` // the rest is about the inspection
		}
		_, _ = w.Write([]byte(body)) // the client may have gone
	})
	rapid.Check(t, func(t *rapid.T) {
		body := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 6).Draw(t, "body"), "")
		answer.Store(&body)
		status.Store(rapid.SampledFrom([]int64{200, 200, 201, 204, 302, 304, 404, 409, 500}).Draw(t, "status"))
		lists.Store(rapid.Bool().Draw(t, "lists"))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for name, do := range calls {
			if err := do(ctx, c); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s hangs", name)
			}
		}
		list, _ := c.List(ctx, wire.DeploymentRef{}) // an error is an answer, too
		for _, found := range list {
			for _, at := range []time.Time{found.Created, found.Started, found.Finished} {
				if _, err := at.MarshalJSON(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestTimesThatNoReportCanHold: in UTC they lie outside of the years that JSON
// has, and a report with one could not be written.
func TestTimesThatNoReportCanHold(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("a", 64)
	c := impostor(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/containers/json") {
			fmt.Fprintf(w, `[{"Id":"%s"}]`, id)
			return
		}
		fmt.Fprintf(w, `{"Id":"%s","Created":"9999-12-31T23:59:59-23:59","Config":{"Labels":{"%s":"shop_web"}},
			"State":{"StartedAt":"0000-01-01T00:00:00+23:59","FinishedAt":"2026-01-02T03:04:05Z"}}`, id, container.LabelDeployment)
	})
	list, err := c.List(t.Context(), wire.DeploymentRef{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v: %v", list, err)
	}
	if got := list[0]; !got.Created.IsZero() || !got.Started.IsZero() || got.Finished.Year() != 2026 {
		t.Errorf("%+v", got)
	}
}
