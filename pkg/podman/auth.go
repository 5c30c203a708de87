package podman

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
)

// registryConfigHeader carries the credentials of every registry with a pull.
const registryConfigHeader = "X-Registry-Config"

// credentials are podman's form of a login.
type credentials struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// registryConfig reads an auth.json, as `podman login` writes it, into the
// header that podman's API takes. A file that does not exist has no logins.
// Errors never repeat its content.
func registryConfig(path string) (http.Header, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return nil, nil
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
	encoded, err := json.Marshal(logins)
	if err != nil {
		return nil, fmt.Errorf("encoding the registry logins: %w", err)
	}
	return http.Header{registryConfigHeader: {base64.URLEncoding.EncodeToString(encoded)}}, nil
}
