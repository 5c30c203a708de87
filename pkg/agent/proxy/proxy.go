// Package proxy lets connections leave the device through an HTTP proxy: what
// goes through it, and how the proxy is asked. One Proxy serves enrollment, the
// bus, renewals, doctor, and, as variables of the environment, podman.
//
// A proxy is not trusted: TLS to the fleet ends at the gateway, and what a proxy
// says is bounded and never repeated.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// Sources of a setting, as errors name them.
const (
	ofConfiguration = "proxy.url"
	ofEnvironment   = "HTTPS_PROXY"
)

// Errors of settings. They never hold the text that was given, which may have a
// password in it.
var (
	ErrURL     = errors.New("it must have the form http://HOST:PORT")
	ErrUser    = errors.New("no user belongs here, since other accounts may read this: write USER:PASSWORD into a file, and its path into proxy.credentialsFile")
	ErrNoProxy = errors.New("it must list hosts, domains such as .example.com, addresses or networks such as 10.0.0.0/8")
)

// Settings say which proxy there is.
type Settings struct {
	// URL is http://HOST:PORT, or https:// for a proxy that speaks TLS itself.
	URL string
	// NoProxy are hosts that are reached without the proxy, as curl takes them:
	// hosts, domains, addresses, networks, each with a port or none.
	NoProxy []string
	// CredentialsFile has USER:PASSWORD; empty for none. It is read for each
	// connection, so that a new password needs no restart.
	CredentialsFile string
}

// Proxy is a proxy. The nil Proxy is none: all connections are direct.
type Proxy struct {
	url     *url.URL // with the user of the environment
	noProxy string
	file    string
	source  string
	// spare: what the proxy refuses is tried without it.
	spare bool
	// choose returns nil for what is reached without the proxy.
	choose func(*url.URL) (*url.URL, error)
}

// Dialer is how a connection is made without a proxy, or to it.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// New returns the Proxy of a configuration, or nil when that names none. Errors are
// one of the above.
func New(s Settings) (*Proxy, error) {
	if s.URL == "" {
		return nil, nil //nolint:nilnil // the nil Proxy is none
	}
	u, err := parse(s.URL)
	if err != nil {
		return nil, err
	}
	if u.User != nil {
		return nil, ErrUser
	}
	return build(u, s, ofConfiguration)
}

// FromEnvironment returns the Proxy of the variables HTTPS_PROXY and NO_PROXY, or
// nil. With Spare it is a hint; the variables may be meant for other programs.
func FromEnvironment(httpsProxy, noProxy string) (*Proxy, error) {
	if httpsProxy == "" {
		return nil, nil //nolint:nilnil // the nil Proxy is none
	}
	if !strings.Contains(httpsProxy, "://") {
		httpsProxy = "http://" + httpsProxy
	}
	u, err := parse(httpsProxy)
	if err != nil {
		return nil, err
	}
	return build(u, Settings{NoProxy: strings.FieldsFunc(noProxy, func(r rune) bool { return r == ',' || r == ' ' })}, ofEnvironment)
}

// plain is what hosts, domains, addresses and networks consist of. It keeps what is
// written into files of other programs free of quotes.
var plain = regexp.MustCompile(`^[A-Za-z0-9.:/*_\[\]-]+$`)

func build(u *url.URL, s Settings, source string) (*Proxy, error) {
	for _, host := range s.NoProxy {
		if !plain.MatchString(host) {
			return nil, ErrNoProxy
		}
	}
	p := &Proxy{url: u, noProxy: strings.Join(s.NoProxy, ","), file: s.CredentialsFile, source: source}
	config := httpproxy.Config{HTTPSProxy: p.Address(), NoProxy: p.noProxy}
	p.choose = config.ProxyFunc()
	return p, nil
}

func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !plain.MatchString(u.Host) || u.Hostname() == "" ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrURL
	}
	if u.Port() == "" && u.Scheme == "http" {
		u.Host = net.JoinHostPort(u.Hostname(), "80")
	} else if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	if _, err := net.LookupPort("tcp", u.Port()); err != nil {
		return nil, ErrURL
	}
	return u, nil
}

// Spare returns a Proxy that is done without where it does not do.
func (p *Proxy) Spare() *Proxy {
	if p == nil {
		return nil
	}
	q := *p
	q.spare = true
	return &q
}

// Address is the proxy's URL without a user; "" for the nil Proxy.
func (p *Proxy) Address() string {
	if p == nil {
		return ""
	}
	return p.url.Scheme + "://" + p.url.Host
}

// String says which proxy it is, and who named it.
func (p *Proxy) String() string { return fmt.Sprintf("%s (%s)", p.Address(), p.source) }

// Covers reports whether a connection to an address, HOST:PORT, goes through the
// proxy.
func (p *Proxy) Covers(address string) bool {
	if p == nil {
		return false
	}
	chosen, err := p.choose(&url.URL{Scheme: "https", Host: address})
	return err == nil && chosen != nil
}

// Settings are what has to be configured for the same proxy. The user is not among
// them, see Login.
func (p *Proxy) Settings() Settings {
	if p == nil {
		return Settings{}
	}
	s := Settings{URL: p.Address(), CredentialsFile: p.file}
	if p.noProxy != "" {
		s.NoProxy = strings.Split(p.noProxy, ",")
	}
	return s
}

// Environment are the variables that let another program use the proxy. They hold
// the password.
func (p *Proxy) Environment() ([]string, error) {
	if p == nil {
		return nil, nil
	}
	login, err := p.login()
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: p.url.Scheme, Host: p.url.Host, User: login}
	env := []string{"HTTPS_PROXY=" + u.String(), "HTTP_PROXY=" + u.String()}
	if p.noProxy != "" {
		env = append(env, "NO_PROXY="+p.noProxy)
	}
	return env, nil
}

// ContainersConf is what containers.conf of podman has to say, for pulls; "" for the
// nil Proxy. It holds the password. Containers do not get the variables: setup-user
// turns that off.
func (p *Proxy) ContainersConf() (string, error) {
	env, err := p.Environment()
	if err != nil || env == nil {
		return "", err
	}
	var quoted []string
	for _, variable := range env { // of an escaped URL and what plain matches
		quoted = append(quoted, `"`+variable+`"`)
	}
	return "# Written by setup-user of fleet-agent, of its setting proxy.\n[engine]\nenv = [" + strings.Join(quoted, ", ") + "]\n", nil
}

// Try reports whether the proxy connects to an address, in the words of an *Error.
func (p *Proxy) Try(ctx context.Context, address string) error {
	strict := *p
	strict.spare = false
	conn, err := strict.Dialer(new(net.Dialer)).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// IsSpare reports whether what the proxy refuses is tried without it.
func (p *Proxy) IsSpare() bool { return p != nil && p.spare }
