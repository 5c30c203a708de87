package podman

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

func TestRegistryConfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "auth.json")
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if header, err := registryConfig(path, nil); header != nil || err != nil {
		t.Errorf("a missing file gives %v, %v", header, err)
	}

	const secret = "pass:word"
	write(`{"auths": {"registry.example.com": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("user:"+secret)) + `"}}}`)
	const added = "10.0.0.1:8443"
	header, err := registryConfig(path, []container.Login{{Registry: added, User: "press-1", Password: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := base64.URLEncoding.DecodeString(header.Get(registryConfigHeader))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]credentials
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]credentials{"registry.example.com": {"user", secret}, added: {"press-1", "p"}}, got); diff != "" {
		t.Error(diff)
	}

	for _, damaged := range []string{"{", `{"auths": {"r": {"auth": "` + base64.StdEncoding.EncodeToString([]byte(secret[:4])) + `"}}}`, `{"auths": {"r": {"auth": "pass"}}}`} {
		write(damaged)
		if _, err := registryConfig(path, nil); err == nil || strings.Contains(err.Error(), "pass:") || strings.Contains(err.Error(), `"pass"`) {
			t.Errorf("%s gives %v, want an error that repeats nothing of it", damaged, err)
		}
	}
}

func TestPullResultFindsTheErrorInTheStream(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		`{"stream":"x"}{"images":["a"],"id":"a"}`: "",
		`{"stream":"x"}{"error":"no such image"}`: "no such image",
		`{"stream":"x"`: "unexpected EOF",
		``:              "",
	} {
		got := ""
		if err := pullResult(strings.NewReader(stream)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s gives %q, want %q", stream, got, want)
		}
	}
}
