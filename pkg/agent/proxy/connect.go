package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// patience bounds what a proxy takes for a connection, to itself and onwards.
	patience = 10 * time.Second
	// maxReply bounds the header of a proxy's answer in bytes.
	maxReply = 16 << 10
	// maxCause bounds what is repeated of an error, in bytes.
	maxCause = 200
)

// Error says what is wrong with a proxy, or with the way on from there, in words of
// this package: nothing of it is the proxy's, and it wraps nothing, so that nobody
// takes it for something that the server did.
type Error struct {
	// Proxy is its address and who named it.
	Proxy string
	// Problem completes the sentence, and says what to do.
	Problem string
}

func (e *Error) Error() string { return "the proxy " + e.Proxy + " " + e.Problem }

func (p *Proxy) problem(format string, args ...any) error {
	return &Error{Proxy: p.String(), Problem: fmt.Sprintf(format, args...)}
}

// Dialer returns direct with the proxy before it. Its errors are an *Error, or those
// of direct.
func (p *Proxy) Dialer(direct Dialer) Dialer {
	if p == nil {
		return direct
	}
	return through{p, direct}
}

type through struct {
	*Proxy

	direct Dialer
}

// DialContext implements Dialer.
func (t through) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if !t.Covers(address) {
		return t.direct.DialContext(ctx, network, address)
	}
	conn, err := t.connect(ctx, network, address)
	if err == nil || !t.spare {
		return conn, err
	}
	if conn, directErr := t.direct.DialContext(ctx, network, address); directErr == nil {
		return conn, nil
	}
	return nil, err
}

// connect makes a connection through the proxy.
func (t through) connect(ctx context.Context, network, address string) (net.Conn, error) {
	login, err := t.login()
	if err != nil {
		return nil, t.problem("cannot be used: %v", err)
	}
	limit := patience
	if t.spare {
		limit /= 2 // the other half is for the direct way
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := t.direct.DialContext(bounded, network, t.url.Host)
	if err != nil {
		return nil, ended(ctx, t.problem("cannot be reached: %s", cause(err)))
	}
	stop := context.AfterFunc(bounded, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // fails for closed ones only
	tunnel, err := t.ask(bounded, conn, address, login)
	if !stop() && err == nil {
		err = t.problem("did not connect to %s in time", address)
	}
	if err != nil {
		_ = conn.Close() // nothing of value was sent
		return nil, ended(ctx, err)
	}
	return tunnel, nil
}

// ended prefers that the caller gave up.
func ended(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return err
}

// ask asks the proxy on conn to connect to an address.
func (p *Proxy) ask(ctx context.Context, conn net.Conn, address string, login *url.Userinfo) (net.Conn, error) {
	if p.url.Scheme == "https" {
		encrypted := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: p.url.Hostname()})
		if err := encrypted.HandshakeContext(ctx); err != nil {
			return nil, p.problem("does not speak TLS as its https:// says: %s", cause(err))
		}
		conn = encrypted
	}
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{"User-Agent": {"fleet-agent"}}}
	if login != nil {
		password, _ := login.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(login.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return nil, p.silence(err, address)
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxReply))
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, p.silence(err, address)
	}
	if response.StatusCode/100 == 2 && reader.Buffered() == 0 { // whoever is behind it does not speak first
		return conn, nil
	}
	return nil, p.refusal(response, address, login != nil)
}

// silence is that no answer came which can be read.
func (p *Proxy) silence(err error, address string) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return p.problem("does not answer in time: it hangs, or cannot reach %s", address)
	}
	return p.problem("gives no answer of an HTTP proxy: check its address and port")
}

// refusal explains an answer that is not a connection. Its text is not repeated.
func (p *Proxy) refusal(response *http.Response, address string, toldWho bool) error {
	switch status := response.StatusCode; {
	case status == http.StatusProxyAuthRequired && !offersBasic(response.Header):
		return p.problem("wants a login of another kind than Basic (status 407), which fleet-agent does not have: let the proxy admit %s without one", address)
	case status == http.StatusProxyAuthRequired && toldWho:
		return p.problem("refuses the login (status 407): check user and password")
	case status == http.StatusProxyAuthRequired:
		return p.problem("wants a login (status 407): write USER:PASSWORD into a file, and its path into proxy.credentialsFile")
	case status == http.StatusForbidden, status == http.StatusUnauthorized, status == http.StatusTooManyRequests, status == http.StatusUnavailableForLegalReasons:
		return p.problem("refuses connections to %s (status %d): allow CONNECT to it there, or list it in noProxy", address, status)
	case status >= http.StatusInternalServerError && status != http.StatusNotImplemented:
		return p.problem("cannot reach %s (status %d)", address, status)
	case status/100 == 2:
		return p.problem("gives no answer of an HTTP proxy: check its address and port")
	default:
		return p.problem("answers CONNECT with status %d, as a web server that is no proxy: check its address and port", status)
	}
}

func offersBasic(header http.Header) bool {
	offers := header.Values("Proxy-Authenticate")
	for _, offer := range offers {
		if strings.Contains(strings.ToLower(offer), "basic") {
			return true
		}
	}
	return len(offers) == 0
}

// cause is the innermost of an error of dialing, which has no address in it.
func cause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return "nobody answers"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Err != nil {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return fmt.Sprintf("%.*s", maxCause, err.Error())
}
