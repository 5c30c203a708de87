package proxy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"syscall"
	"unicode"
)

// maxLogin bounds a file with credentials, in bytes.
const maxLogin = 4 << 10

// Login is USER:PASSWORD as the environment has it; "" for none. What a file has is
// not in it.
func (p *Proxy) Login() string {
	if p == nil || p.url.User == nil {
		return ""
	}
	password, _ := p.url.User.Password()
	return p.url.User.Username() + ":" + password
}

// Confidential are the password and the whole login that the proxy is told, as far as they
// can be read. It is for those who look for that in other texts.
func (p *Proxy) Confidential() []string {
	if p == nil {
		return nil
	}
	login, err := p.login()
	if err != nil || login == nil {
		return nil
	}
	password, _ := login.Password()
	return []string{password, login.Username() + ":" + password}
}

// login returns what the proxy is told; nil for nothing.
func (p *Proxy) login() (*url.Userinfo, error) {
	if p.file == "" {
		return p.url.User, nil
	}
	text, err := readLogin(p.file)
	if err != nil {
		return nil, fmt.Errorf("proxy.credentialsFile: %w", err)
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok || user == "" || strings.ContainsFunc(text, unicode.IsControl) {
		return nil, fmt.Errorf("proxy.credentialsFile: %s must have one line of the form USER:PASSWORD", p.file)
	}
	return url.UserPassword(user, password), nil
}

func readLogin(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%w: run chgrp fleet-agent %s && chmod 0640 %[2]s", err, path)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxLogin+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxLogin {
		return "", fmt.Errorf("%s is longer than %d bytes", path, maxLogin)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}
