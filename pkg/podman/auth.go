package podman

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// registryConfigHeader carries the credentials of every registry with a pull.
const registryConfigHeader = "X-Registry-Config"

// credentials are podman's form of a login.
type credentials struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// registryConfig returns the header that podman's API takes: the logins of an
// auth.json and others.
func registryConfig(path string, others []container.Login) (http.Header, error) {
	logins, err := readLogins(path)
	if err != nil {
		return nil, err
	}
	for _, login := range others {
		logins[login.Registry] = credentials{login.User, login.Password}
	}
	if len(logins) == 0 {
		return nil, nil
	}
	encoded, err := json.Marshal(logins)
	if err != nil {
		return nil, fmt.Errorf("encoding the registry logins: %w", err)
	}
	return http.Header{registryConfigHeader: {base64.URLEncoding.EncodeToString(encoded)}}, nil
}

// maxAuthFile bounds an auth.json, in bytes.
const maxAuthFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err == nil && len(data) > maxAuthFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxAuthFile)
	}
	return data, err
}

// readLogins reads an auth.json, as `podman login` writes it. A file that does
// not exist has no logins. Errors never repeat its content.
func readLogins(path string) (map[string]credentials, error) {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return map[string]credentials{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the registry logins: %w", err)
	}
	var file struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("reading the registry logins: %s is not an auth.json", path)
	}
	logins := make(map[string]credentials, len(file.Auths))
	for registry, entry := range file.Auths {
		pair, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, password, found := strings.Cut(string(pair), ":")
		if err != nil || !found {
			return nil, fmt.Errorf("reading the registry logins: the login of %s in %s is damaged: run podman login again", registry, path)
		}
		logins[registry] = credentials{user, password}
	}
	return logins, nil
}

// Logins returns the logins of an auth.json by registry; none when it cannot be read.
func Logins(path string) map[string]container.Login {
	logins, err := readLogins(path)
	if err != nil {
		return nil
	}
	all := make(map[string]container.Login, len(logins))
	for registry, login := range logins {
		all[registry] = container.Login{Registry: registry, User: login.Username, Password: login.Password}
	}
	return all
}

// Passwords returns the passwords of an auth.json, also as they stand there; none when it
// cannot be read.
func Passwords(path string) (all []string) {
	logins, err := readLogins(path)
	if err != nil {
		return nil
	}
	for _, login := range logins {
		all = append(all, login.Password, login.Username+":"+login.Password)
	}
	return all
}
