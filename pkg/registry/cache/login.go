package cache

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// readLogin returns the login for a registry of an auth.json, as podman login writes it.
// A file that does not exist has none. Errors never repeat its content.
func readLogin(path, registry string) (authn.Authenticator, error) {
	if path == "" {
		return authn.Anonymous, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, fmt.Errorf("imageAuthFile: %w", err)
	}
	var file struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("imageAuthFile: %s is not what podman login writes", path)
	}
	for _, key := range []string{registry, "https://" + registry, "https://index." + registry + "/v1/"} {
		entry, found := file.Auths[key]
		if !found {
			continue
		}
		pair, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, password, whole := strings.Cut(string(pair), ":")
		if err != nil || !whole {
			return nil, fmt.Errorf("imageAuthFile: the login of %s in %s is damaged: run podman login --authfile %[2]s again", registry, path)
		}
		return &authn.Basic{Username: user, Password: password}, nil
	}
	return authn.Anonymous, nil
}

func digestOf(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}
