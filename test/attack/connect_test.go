package attack_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// handshakes a second, in strict mode: each costs client and server more than a
// millisecond.
const handshakes = 100

var (
	tlsRefused  = counts(refusal("bus", "tls"))
	authRefused = counts(refusal("bus", "authentication"))
	crowded     = counts(refusal("bus", "sessions"))
)

// connectAttacks try to be somebody else, or too many.
func (a *arena) connectAttacks() []attack {
	return []attack{
		{"connect without a certificate", a.connectWithout, tlsRefused},
		{"connect with a certificate of another authority", a.connectForeign, tlsRefused},
		{"connect with the server's certificates", a.connectAsServer, tlsRefused},
		{"connect with another's certificate and an own key", a.connectStolen, tlsRefused},
		{"connect with an operator's certificate", a.connectAsOperator, authRefused},
		{"connect with an old TLS", a.connectOldTLS, tlsRefused},
		{"connect in plain text", a.connectPlain, tlsRefused},
		{"name another user in CONNECT", a.connectNamed, publishRefused},
		{"name another account in CONNECT", a.connectAccount, authRefused},
		{"connect as another kind of peer", a.connectKind, authRefused},
		{"change identity on a live connection", a.connectTwice, publishRefused},
		{"a client name that is a format", a.connectFormat, publishRefused},
		{"malformed protocol", a.malformedProtocol, counts(refusal("bus", "protocol"))},
		{"use a device's certificate at the API", a.deviceAtAPI, counts(`authentication_attempts{result="failure"}`)},
		{"many connections with one certificate", a.connectMany, crowded},
		{"half-open handshakes", a.connectHalf, tlsRefused},
		{"connections that say nothing", a.connectSilent, counts(refusal("bus", "timeout"))},
		{"connect and disconnect", a.connectStorm, crowded},
	}
}

// enters reports whether a configuration gets a device's greeting.
func (a *arena) enters(t *testing.T, config *tls.Config, connect string) (said string, in bool) {
	t.Helper()
	r, err := a.raw(t, config)
	if err != nil {
		return err.Error(), false
	}
	r.say("CONNECT %s\r\nPING\r\n", connect)
	return r.hear("PONG")
}

// notIn fails when a configuration lets anybody in.
func (a *arena) notIn(t *testing.T, what string, config *tls.Config) {
	t.Helper()
	if said, in := a.enters(t, config, "{}"); in {
		t.Errorf("%s: the server said %q", what, said)
	}
}

func (a *arena) connectWithout(t *testing.T, _ *device) { a.notIn(t, "nobody", a.tls()) }

// connectForeign brings a certificate for a victim of an authority that looks
// like the server's.
func (a *arena) connectForeign(t *testing.T, _ *device) {
	foreign, err := pki.Load(t.TempDir(), time.Now())
	must(t, err)
	for _, name := range []string{a.victims[0].name, "fleet-server"} {
		key, err := pki.NewKey()
		must(t, err)
		uri, err := wire.DeviceURI("fleet", name)
		must(t, err)
		chain, err := foreign.IssueDevice(name, uri, &key.PublicKey, time.Now())
		must(t, err)
		cert, err := decodeChain(string(pki.EncodeChain(chain)), key)
		must(t, err)
		a.notIn(t, name, a.tls(cert))
		// With the real intermediate behind it, which everybody can get.
		cert.Certificate = append(cert.Certificate[:1:1], a.victims[0].cert.Certificate[1:]...)
		a.notIn(t, name+" with the real intermediate", a.tls(cert))
	}
	// A device's certificate is no authority.
	d := a.attacker(t)
	der, err := x509.ParseCertificate(d.cert.Certificate[0])
	must(t, err)
	if der.IsCA || der.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("a device's certificate can sign others")
	}
}

// connectAsServer uses what the server shows to everybody, and what it keeps.
func (a *arena) connectAsServer(t *testing.T, d *device) {
	conn, err := tls.Dial("tcp", a.ready.Enroll.String(), a.tls())
	must(t, err)
	shown := tls.Certificate{PrivateKey: d.key}
	for _, c := range conn.ConnectionState().PeerCertificates {
		shown.Certificate = append(shown.Certificate, c.Raw)
	}
	must(t, conn.Close())
	a.notIn(t, "the chain with another key", a.tls(shown))
	for _, name := range []string{"gateway", "api"} {
		cert, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "pki", name+".crt"), filepath.Join(a.dir, "pki", name+".key"))
		must(t, err)
		a.notIn(t, name, a.tls(cert))
	}
}

func (a *arena) connectStolen(t *testing.T, d *device) {
	stolen := a.victims[0].cert
	stolen.PrivateKey = d.key
	a.notIn(t, "stolen", a.tls(stolen))
}

// connectAsOperator: an operator is no device. Whatever else it may become, it
// must not write.
func (a *arena) connectAsOperator(t *testing.T, _ *device) {
	cert := a.operator(t)
	r, err := a.raw(t, a.tls(cert))
	if err != nil {
		return
	}
	r.say(`CONNECT {"verbose":false}` + "\r\nPING\r\n")
	if _, in := r.hear("PONG"); !in {
		return
	}
	for _, subject := range []string{"fleet.v1.up." + a.victims[0].name + ".state", "$KV.desired-state.x", "$JS.API.STREAM.DELETE.KV_desired-state"} {
		r.say("PUB %s 0\r\n\r\nPING\r\n", subject)
		if said, _ := r.hear("PONG"); !strings.Contains(said, "Permissions Violation") {
			t.Errorf("an operator's publish to %s: %q", subject, said)
		}
	}
}

// operator is the administrator's certificate.
func (a *arena) operator(t *testing.T) tls.Certificate {
	t.Helper()
	config, err := clientcmd.LoadFromFile(a.ready.Kubeconfig)
	must(t, err)
	user := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
	cert, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
	must(t, err)
	return cert
}

func (a *arena) connectOldTLS(t *testing.T, d *device) {
	config := a.tls(d.cert)
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
	a.notIn(t, "TLS 1.2", config)
}

// connectPlain never begins with TLS.
func (a *arena) connectPlain(t *testing.T, _ *device) {
	for _, first := range []string{
		`CONNECT {"verbose":true,"user":"CORE","pass":""}` + "\r\nPING\r\n", "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "INFO {}\r\n", strings.Repeat("\x16\x03\x01", 100), "PROXY TCP4 127.0.0.1 127.0.0.1 1 1\r\n" + "CONNECT {}\r\nPING\r\n",
	} {
		conn, err := net.Dial("tcp", a.ready.NATS.String())
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(waitTimeout)))
		_, _ = io.WriteString(conn, first)
		must(t, conn.(*net.TCPConn).CloseWrite())
		said, _ := io.ReadAll(conn)
		if bytes.Contains(said, []byte("PONG")) || bytes.Contains(said, []byte("+OK")) {
			t.Errorf("after %.20q the server said %q", first, said)
		}
		_ = conn.Close()
	}
}

// connectNamed gives user names and passwords: they are not looked at, so the
// device stays what its certificate says.
func (a *arena) connectNamed(t *testing.T, d *device) {
	victim := a.victims[0].name
	for _, connect := range []string{
		`{"user":"CORE","pass":""}`, `{"user":"SYS","pass":"x"}`, `{"user":"DEV","pass":"x"}`, `{"user":"` + victim + `"}`, `{"auth_token":"CORE"}`,
		`{"jwt":"eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.e30.x","sig":"x"}`, `{"nkey":"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4","sig":"x"}`,
		`{"tls_required":false}`, `{"name":"` + victim + `"}`, `{"user":"` + victim + `","pass":"` + strings.Repeat("x", 900) + `"}`, `{"user":7}`, `{"user":"a","user":"CORE"}`,
	} {
		r := d.introduce(connect)
		if said, in := r.hear("PONG"); !in {
			continue // refused altogether
		} else if strings.Contains(said, "+ERR") {
			t.Errorf("CONNECT %s: %q", connect, said)
		}
		for _, subject := range []string{"$JS.API.INFO", "$SYS.REQ.SERVER.PING", "fleet.v1.up." + victim + ".state"} {
			r.say("PUB %s %s 0\r\n\r\nPING\r\n", subject, d.inbox("a"))
			if said, _ := r.hear("PONG"); !strings.Contains(said, "Permissions Violation") {
				t.Errorf("CONNECT %s: publishing to %s: %q", connect, subject, said)
			}
		}
		_ = r.Close()
	}
}

func (a *arena) connectAccount(t *testing.T, d *device) {
	for _, connect := range []string{`{"account":"CORE"}`, `{"account":"SYS"}`, `{"account":"mine","new_account":true}`, `{"new_account":true}`} {
		if said, in := a.enters(t, a.tls(d.cert), connect); in {
			t.Errorf("CONNECT %s: %q", connect, said)
		}
	}
}

// connectKind speaks the protocols between servers.
func (a *arena) connectKind(t *testing.T, d *device) {
	for _, line := range []string{
		`CONNECT {"server_id":"x","cluster":"x","lnoc":true,"leafnode_urls":[]}`, `CONNECT {"remote_account":"CORE","hub":true,"is_hub":true,"name":"x"}`,
		`CONNECT {"gateway":"x","gateway_url":"nats://127.0.0.1:1"}`, `INFO {"server_id":"x","gateway":"x"}`, `RS+ CORE > q 1`, `LS+ >`, `A+ CORE`, `RMSG CORE fleet.v1.down.x 0`, `-ERR 'x'`, `+OK`,
	} {
		r, err := a.raw(t, a.tls(d.cert))
		must(t, err)
		r.say("%s\r\nRS+ CORE >\r\nPUB $JS.API.INFO 0\r\n\r\nPING\r\n", line)
		if said, in := r.hear("PONG"); in && !strings.Contains(said, "Permissions Violation") {
			t.Errorf("%s: %q", line, said)
		}
		_ = r.Close()
	}
}

// connectTwice introduces itself again and again on one connection.
func (a *arena) connectTwice(t *testing.T, d *device) {
	r := d.introduce(`{"verbose":false}`)
	r.say("PUB $JS.API.INFO 0\r\n\r\n")
	_, _ = r.hear("PONG")
	for _, user := range []string{"CORE", "SYS", a.victims[0].name} {
		r.say(`CONNECT {"verbose":false,"user":%q,"pass":"x"}`+"\r\nPUB $JS.API.INFO 0\r\n\r\nPING\r\n", user)
		if said, in := r.hear("PONG"); in && !strings.Contains(said, "Permissions Violation") {
			t.Errorf("as %s: %q", user, said)
		}
	}
}

// connectFormat names itself so that a log that takes the name for a format
// writes megabytes.
func (a *arena) connectFormat(t *testing.T, d *device) {
	before := a.log.bytes.Load()
	for _, name := range []string{strings.Repeat("%[1]999999s", 20), d.ID} { // the first is refused
		r := d.introduce(fmt.Sprintf(`{"verbose":false,"name":%q,"lang":%q,"version":%q}`, name, "%[1]999999d", "%999999s"))
		for range 10 {
			r.say("PUB $JS.API.INFO 0\r\n\r\nSUB %s 1\r\n", "%[1]999999s")
		}
		r.say("PING\r\n")
		_, _ = r.hear("PONG")
	}
	const enough = 100 << 10
	if wrote := a.log.bytes.Load() - before; wrote > enough {
		t.Errorf("20 messages made the server log %d bytes", wrote)
	}
}

func (a *arena) malformedProtocol(t *testing.T, d *device) {
	for _, line := range []string{
		"PUB\r\n", "PUB x\r\n", "PUB x -1\r\n", "PUB x 99999999999999999999\r\n", "PUB " + d.up(wire.KindState) + " 5\r\nabcdefgh\r\n", "HPUB x 9 3\r\nabc\r\n", "SUB\r\n", "SUB x\r\n",
		"UNSUB\r\n", "UNSUB 1 -1\r\n", "SUB a..b 1\r\n", "\x00\x01\x02\r\n", strings.Repeat("A", 10_000), "PUB " + strings.Repeat("a.", 5000) + " 0\r\n\r\n", strings.Repeat("PING", 1000),
		"CONNECT " + strings.Repeat("[", 2000), "CONNECT {\r\n", "MSG x 1 0\r\n\r\n",
	} {
		r := d.introduce(`{"verbose":false}`)
		_, _ = r.hear("PONG")
		r.say("%s", line)
		r.say("PING\r\n")
		_ = r.SetReadDeadline(time.Now().Add(quiet))
		_, _ = r.hear("PONG")
		_ = r.Close()
	}
}

// deviceAtAPI: a device is nobody there.
func (a *arena) deviceAtAPI(t *testing.T, d *device) {
	host := a.rest.Host
	for name, config := range map[string]*tls.Config{
		"a device": a.tls(d.cert), "nobody": a.tls(), "the server": a.tls(serverPair(t, a.dir)),
	} {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		for _, path := range []string{"/api/v1/secrets", "/apis/fleet.nationtech.io/v1alpha1/devices", "/apis/fleet.nationtech.io/v1alpha1/deployments", "/metrics", "/api", "/apis", "/openapi/v3", "/debug/pprof/"} {
			for _, user := range []string{"", "admin"} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host+path, nil)
				must(t, err)
				if user != "" {
					req.Header.Set("X-Remote-User", user)
					req.Header.Set("Impersonate-User", user)
					req.SetBasicAuth(user, user)
				}
				res, err := c.Do(req)
				must(t, err)
				_ = res.Body.Close()
				if res.StatusCode < 400 {
					t.Errorf("%s gets %s: %s", name, path, res.Status)
				}
			}
		}
	}
}

func serverPair(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "pki", "api.crt"), filepath.Join(dir, "pki", "api.key"))
	must(t, err)
	return cert
}

// connectMany keeps as many connections as it can get.
func (a *arena) connectMany(t *testing.T, d *device) {
	const atOnce = 16
	conns := make(chan *nats.Conn, a.scale.connections)
	work := make(chan struct{}, a.scale.connections)
	for range a.scale.connections {
		work <- struct{}{}
	}
	close(work)
	next := a.pace(handshakes)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for range work {
				next()
				if c, err := a.dial(a.tls(d.cert), nats.Name(randomHex(16))); err == nil {
					conns <- c
				}
			}
		})
	}
	wg.Wait()
	close(conns)
	var open []*nats.Conn
	for c := range conns {
		t.Cleanup(c.Close)
		open = append(open, c)
	}
	const most = 2
	eventually(t, "surplus connections end", func() error {
		n := 0
		for _, c := range open {
			if c.IsConnected() {
				n++
			}
		}
		if n > most {
			return fmt.Errorf("%d of %d are open", n, len(open))
		}
		return nil
	})
}

// connectHalf begins handshakes and leaves them.
func (a *arena) connectHalf(t *testing.T, d *device) {
	hello := clientHello(t, a.tls(d.cert))
	for i := range a.scale.connections {
		conn, err := net.Dial("tcp", a.ready.NATS.String())
		if err != nil {
			t.Logf("connection %d: %v", i, err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write(hello[:len(hello)/(1+i%2)])
	}
	time.Sleep(a.scale.flood)
}

// clientHello is the first message of a handshake.
func clientHello(t *testing.T, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() { _ = tls.Client(client, config).Handshake() }()
	buf := make([]byte, 4<<10)
	n, err := server.Read(buf)
	must(t, err)
	_, _ = client.Close(), server.Close()
	return buf[:n]
}

// connectSilent does the handshake and then says nothing, until it is dropped.
func (a *arena) connectSilent(t *testing.T, d *device) {
	const some = 50
	var open []*raw
	for range some {
		if r, err := a.raw(t, a.tls(d.cert)); err == nil {
			open = append(open, r)
		}
	}
	for _, r := range open {
		if said, ok := r.hear("Authentication Timeout"); !ok {
			t.Errorf("the server said %q", said)
		}
	}
}

func (a *arena) connectStorm(t *testing.T, d *device) {
	const atOnce, perSecond = 4, 10
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			a.flooding(perSecond, func(int) {
				if c, err := a.dial(a.tls(d.cert), nats.Name(d.ID)); err == nil {
					c.Close()
				}
			})
		})
	}
	wg.Wait()
}
