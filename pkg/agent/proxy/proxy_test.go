package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	target   = "gateway.test:4222"
	password = "p@ss:w/ord"
)

// echo says again what it hears, until the test ends.
func echo(t *testing.T) string {
	t.Helper()
	return listen(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
}

// listen serves one connection after the other.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

func login(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "login")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func configured(t *testing.T, s proxy.Settings) *proxy.Proxy {
	t.Helper()
	p, err := proxy.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func dial(t *testing.T, p *proxy.Proxy, address string) (net.Conn, error) {
	t.Helper()
	return p.Dialer(new(net.Dialer)).DialContext(t.Context(), "tcp", address)
}

func TestAConnectionGoesThrough(t *testing.T) {
	t.Parallel()
	server := proxytest.Start(t)
	server.User, server.Password = "device", password
	server.Hosts = map[string]string{target: echo(t)}
	conn, err := dial(t, configured(t, proxy.Settings{URL: server.URL(), CredentialsFile: login(t, "device:"+password+"\n")}), target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		t.Errorf("it says %q, %v", line, err)
	}
	if diff := cmp.Diff([]string{target}, server.Asked()); diff != "" {
		t.Error(diff)
	}
}

// TestWhatIsWrong: one line each, which names the proxy and says what to do, and has
// nothing in it that the proxy said, and no password.
func TestWhatIsWrong(t *testing.T) {
	t.Parallel()
	answer := func(text string) func(*testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			return listen(t, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_, _ = io.WriteString(conn, text)
				}
			})
		}
	}
	nobody := func(t *testing.T) string {
		t.Helper()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		return listener.Addr().String()
	}
	const gone = "\x1b[31mhello\r\n\r\n"
	tests := map[string]struct {
		serve func(*testing.T) string
		login string
		tls   bool
		want  string
	}{
		"nobody is there":   {serve: nobody, want: "cannot be reached: connection refused"},
		"a login is wanted": {serve: answer("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n"), want: "wants a login (status 407): write USER:PASSWORD into a file"},
		"a wrong login":     {serve: answer("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n"), login: "device:" + password, want: "refuses the login (status 407): check user and password"},
		"another login":     {serve: answer("HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n"), want: "wants a login of another kind than Basic"},
		"a forbidden port":  {serve: answer("HTTP/1.1 403 " + gone), want: "refuses connections to gateway.test:4222 (status 403): allow CONNECT to it there"},
		"no way on":         {serve: answer("HTTP/1.1 503 " + gone), want: "cannot reach gateway.test:4222 (status 503)"},
		"a web server":      {serve: answer("HTTP/1.1 405 " + gone), want: "answers CONNECT with status 405, as a web server that is no proxy"},
		"garbage":           {serve: answer(gone), want: "gives no answer of an HTTP proxy"},
		"no end":            {serve: answer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), want: "gives no answer of an HTTP proxy"},
		"it hangs up":       {serve: answer(""), want: "gives no answer of an HTTP proxy"},
		"it speaks first":   {serve: answer("HTTP/1.1 200 OK\r\n\r\nhello"), want: "gives no answer of an HTTP proxy"},
		"no TLS":            {serve: answer(gone), tls: true, want: "does not speak TLS as its https:// says"},
		"no login in file":  {serve: nobody, login: "device", want: "must have one line of the form USER:PASSWORD"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := proxy.Settings{URL: "http://" + tt.serve(t)}
			if tt.login != "" {
				s.CredentialsFile = login(t, tt.login)
			}
			if tt.tls {
				s.URL = strings.Replace(s.URL, "http:", "https:", 1)
			}
			_, err := dial(t, configured(t, s), target)
			problem, ok := errors.AsType[*proxy.Error](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			text := problem.Error()
			if !strings.HasPrefix(text, "the proxy "+s.URL+" (proxy.url) ") || !strings.Contains(text, tt.want) || strings.ContainsAny(text, "\n\x1b") || strings.Contains(text, password) {
				t.Errorf("got %q, want it to say %q", text, tt.want)
			}
		})
	}
}

// pipes dials to a proxy that takes a connection and says nothing.
type pipes struct{}

func (pipes) DialContext(_ context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, there); _ = there.Close() }()
	return here, nil
}

func TestAProxyThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := configured(t, proxy.Settings{URL: "http://proxy.test:3128"})
		begun := time.Now()
		_, err := p.Dialer(pipes{}).DialContext(t.Context(), "tcp", target)
		if err == nil || !strings.Contains(err.Error(), "does not answer in time: it hangs, or cannot reach "+target) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := p.Dialer(pipes{}).DialContext(ctx, "tcp", target); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that gives up is told %v", err)
		}
	})
}

func TestWhatGoesThrough(t *testing.T) {
	t.Parallel()
	p := configured(t, proxy.Settings{URL: "http://proxy.test:3128", NoProxy: []string{"near.test", ".inside.test", "10.0.0.0/8", "half.test:8443"}})
	for address, want := range map[string]bool{
		target: true, "near.test:4222": false, "x.near.test:1": false, "a.inside.test:443": false, "inside.test:443": true, "10.1.2.3:4222": false, "11.1.2.3:4222": true,
		"half.test:8443": false, "half.test:4222": true, "127.0.0.1:4222": false, "localhost:1": false, "[2001:db8::1]:4222": true,
	} {
		if got := p.Covers(address); got != want {
			t.Errorf("%s: %t, want %t", address, got, want)
		}
	}
	var none *proxy.Proxy
	if none.Covers(target) || none.Address() != "" || none.Spare() != nil || none.Login() != "" {
		t.Error("the nil Proxy is one")
	}
	if env, err := none.Environment(); env != nil || err != nil {
		t.Errorf("the nil Proxy has the environment %v, %v", env, err)
	}
}

func TestOfTheEnvironment(t *testing.T) {
	t.Parallel()
	p, err := proxy.FromEnvironment("user:p%40ss%3Aw%2Ford@proxy.test:3128", "near.test, 10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	if p.String() != "http://proxy.test:3128 (HTTPS_PROXY)" || p.Login() != "user:"+password || p.Covers("near.test:1") {
		t.Errorf("it is %v, with %q", p, p.Login())
	}
	want := proxy.Settings{URL: "http://proxy.test:3128", NoProxy: []string{"near.test", "10.0.0.0/8"}}
	if diff := cmp.Diff(want, p.Settings()); diff != "" {
		t.Error(diff)
	}
	env, err := p.Environment()
	u := "http://user:p%40ss%3Aw%2Ford@proxy.test:3128"
	if diff := cmp.Diff([]string{"HTTPS_PROXY=" + u, "HTTP_PROXY=" + u, "NO_PROXY=near.test,10.0.0.0/8"}, env); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// TestASpareProxy: what is set for other programs cuts no device off.
func TestASpareProxy(t *testing.T) {
	t.Parallel()
	server := proxytest.Start(t) // reaches nobody
	near := echo(t)
	p, err := proxy.FromEnvironment(server.URL(), "")
	if err != nil {
		t.Fatal(err)
	}
	direct := redirect{target: near}
	if _, err := p.Dialer(direct).DialContext(t.Context(), "tcp", target); err == nil {
		t.Error("the control: it goes without the proxy")
	}
	conn, err := p.Spare().Dialer(direct).DialContext(t.Context(), "tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_, err = p.Spare().Dialer(redirect{target: "127.0.0.1:1"}).DialContext(t.Context(), "tcp", target)
	if problem, ok := errors.AsType[*proxy.Error](err); !ok {
		t.Errorf("when nothing works, got %v", problem)
	}
}

// redirect resolves names, as no resolver does.
type redirect map[string]string

func (r redirect) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if to, ok := r[address]; ok {
		address = to
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func TestBadSettings(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]error{
		"http://proxy.test:3128": nil, "https://proxy.test": nil, "http://[2001:db8::1]:3128/": nil, "": nil,
		"proxy.test:3128": proxy.ErrURL, "socks5://proxy.test:1": proxy.ErrURL, "http://proxy.test:x": proxy.ErrURL, "http://": proxy.ErrURL, "http://proxy.test/path": proxy.ErrURL,
		"http://proxy.test:3128?x": proxy.ErrURL, "http://a\"b:1": proxy.ErrURL, "http://user:secret@proxy.test:1": proxy.ErrUser, "http://u:se cret@[": proxy.ErrURL, "http://proxy.test:99999": proxy.ErrURL,
	} {
		if _, err := proxy.New(proxy.Settings{URL: url}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", url, err, want)
		}
	}
	if _, err := proxy.New(proxy.Settings{URL: "http://proxy.test:1", NoProxy: []string{"a\"\nb"}}); !errors.Is(err, proxy.ErrNoProxy) {
		t.Errorf("got %v", err)
	}
}
