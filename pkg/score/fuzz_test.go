package score_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// An accepted score survives the way to the device: through its canonical
// form the agent reads what the server validated.
func FuzzParsePodmanV0(f *testing.F) {
	for _, seed := range []string{
		document(), document(`"ports":[{"hostPort":80,"containerPort":80,"hostIP":"::1"}]`),
		document(`"volumes":[{"hostPath":"/srv","mountPath":"/a"}]`), document(`"env":[{"name":"A","value":"x"}]`, `"restart":"Never"`),
		`{"Services":[]}`, `{"services":[{"name":"a","name":"a"}]}`, `{}}`, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := score.ParsePodmanV0(data)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		var plain score.PodmanV0
		if err := json.Unmarshal(data, &plain); err != nil {
			t.Fatalf("encoding/json refuses what was accepted: %v", err)
		}
		if diff := cmp.Diff(&plain, parsed, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("encoding/json reads something else (-json +parsed):\n%s", diff)
		}
		body, err := score.Canonical(score.TypePodmanV0, data)
		if err != nil {
			checkRefusal(t, err) // too large
			return
		}
		sent, err := wire.Decode[wire.Score](body, wire.MaxScoreSize)
		if err != nil {
			t.Fatal(err)
		}
		received, err := score.ParsePodmanV0(sent.Data)
		if err != nil {
			t.Fatalf("the device refuses what the server accepted: %v", err)
		}
		if diff := cmp.Diff(parsed, received, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		if parsed.Demands().Privilege() != received.Demands().Privilege() {
			t.Error("the privilege changed on the way")
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{`{"b":1,"a":[1e3,1.0,12345678901234567890]}`, `{"a":1,"a":2}`, `[] ]`, "\"\xff\\ud800\"", `""`, `[[[[]]]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		body, err := score.Canonical("T", data)
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if !json.Valid(body) || len(body) > score.MaxSize {
			t.Fatalf("body of %d bytes: %.200s", len(body), body)
		}
		sent, err := wire.Decode[wire.Score](body, wire.MaxScoreSize)
		if err != nil {
			t.Fatal(err)
		}
		again, err := score.Canonical("T", sent.Data)
		if err != nil || !bytes.Equal(body, again) {
			t.Errorf("%s becomes %s, %v", body, again, err)
		}
	})
}

func checkRefusal(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, score.ErrInvalid) {
		t.Errorf("%v is no ErrInvalid", err)
	}
	if bytes.ContainsAny([]byte(err.Error()), "\n\r\x00") {
		t.Errorf("error is more than a line: %q", err)
	}
}
