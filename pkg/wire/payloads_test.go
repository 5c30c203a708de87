package wire_test

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// encode returns v as it crosses the wire.
func encode(t interface{ Fatal(...any) }, v any) []byte {
	payload, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// The bounds are the protocol: a smaller one breaks agents in the field.
func TestVerbs(t *testing.T) {
	t.Parallel()
	want := []wire.Verb{
		{Kind: "snapshot", Direction: "up", MaxRequest: 8192, MaxReply: 262144, Rate: 2, Burst: 20, Since: "0.1.0"},
		{Kind: "body", Direction: "up", MaxRequest: 1024, MaxReply: 262144, Rate: 100, Burst: 2048, Since: "0.1.0"},
		{Kind: "info", Direction: "up", MaxRequest: 16384, MaxReply: 8192, Rate: 1, Burst: 10, Since: "0.1.0"},
		{Kind: "state", Direction: "up", MaxRequest: 16384, MaxReply: 8192, Rate: 20, Burst: 1024, Since: "0.1.0"},
		{Kind: "heartbeat", Direction: "up", MaxRequest: 96, Rate: 1, Burst: 10, Since: "0.1.0"},
		{Kind: "secret", Direction: "up", MaxRequest: 1024, MaxReply: 262144, Rate: 20, Burst: 1024, Since: "0.1.0"},
		{Kind: "registry", Direction: "up", MaxRequest: 64, MaxReply: 65536, Rate: 5, Burst: 1024, Since: "0.1.0"},
		{Kind: "nudge", Direction: "down", Since: "0.1.0"},
		{Kind: "revoked", Direction: "down", MaxRequest: 1024, Since: "0.1.0"},
	}
	if diff := cmp.Diff(want, wire.Verbs); diff != "" {
		t.Error(diff)
	}
	var up []wire.Kind
	for _, v := range want {
		if v.Direction == wire.Up {
			up = append(up, v.Kind)
		}
		if diff := cmp.Diff(v, v.Kind.Verb()); diff != "" {
			t.Errorf("%s: %s", v.Kind, diff)
		}
	}
	if diff := cmp.Diff(up, wire.Kinds); diff != "" {
		t.Error(diff)
	}
	if v := wire.Kind("other").Verb(); v != (wire.Verb{}) {
		t.Errorf("an unknown kind is %+v", v)
	}
}

func TestHeartbeatStaysSmall(t *testing.T) {
	t.Parallel()
	check := func(t interface{ Fatal(...any) }, h wire.Heartbeat) {
		if payload := encode(t, h); len(payload) > wire.KindHeartbeat.Verb().MaxRequest {
			t.Fatal("too long:", string(payload))
		}
	}
	check(t, wire.Heartbeat{At: math.MinInt64, Uptime: math.MinInt64})
	rapid.Check(t, func(t *rapid.T) {
		h := wire.Heartbeat{At: rapid.Int64().Draw(t, "at"), Uptime: rapid.Int64().Draw(t, "uptime")}
		check(t, h)
		got, err := wire.DecodeRequest[wire.Heartbeat](wire.KindHeartbeat, encode(t, h))
		if err != nil || got != h {
			t.Fatalf("Decode = %v, %v; want %v", got, err, h)
		}
	})
}

// A chunk of a body in base64 with its frame stays far under NATS' default
// largest message of 1 MiB, and under what an agent accepts.
func TestBodyReplyFitsIntoAReply(t *testing.T) {
	t.Parallel()
	want := wire.BodyReply{Size: wire.MaxScoreSize, Data: make([]byte, wire.BodyChunk)}
	payload := encode(t, want)
	got, err := wire.DecodeReply[wire.BodyReply](wire.KindBody, payload)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The longest snapshot and body requests that an agent can send are accepted.
func TestRequestsFitTheirLimits(t *testing.T) {
	t.Parallel()
	hash := wire.Sum(nil).String()
	have := wire.Version{Epoch: strings.Repeat("e", 64), Term: math.MaxUint64, Seq: math.MaxUint64}
	can := slices.Repeat([]string{strings.Repeat("c", 16) + "/" + strings.Repeat("c", 63)}, wire.MaxCapabilities)
	for kind, request := range map[wire.Kind]any{
		wire.KindSnapshot: wire.SnapshotRequest{Have: have, InfoHash: hash, StateHash: hash, Nonce: hash, HardwareID: hash, Capabilities: can},
		wire.KindBody:     wire.BodyRequest{Hash: hash, Offset: wire.MaxScoreSize},
	} {
		if n, most := len(encode(t, request)), kind.Verb().MaxRequest; n > most {
			t.Errorf("%s: %d bytes, more than %d", kind, n, most)
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, payload string
		limit         int
		want          error
	}{
		{"good", `{"at":1,"up":2}`, 96, nil},
		{"a field of a newer peer", `{"at":1,"up":2,"new":[{}]}`, 96, nil},
		{"at the limit", `{"at":1}`, 8, nil},
		{"over the limit", `{"at":1}`, 7, wire.ErrPayload},
		{"empty", ``, 96, wire.ErrPayload},
		{"cut off", `{"at":1`, 96, wire.ErrPayload},
		{"two documents", `{"at":1}{"at":2}`, 96, wire.ErrPayload},
		{"wrong type", `{"at":"secret-text"}`, 96, wire.ErrPayload},
		{"overflow", `{"at":9223372036854775808}`, 96, wire.ErrPayload},
		{"list", `[1]`, 96, wire.ErrPayload},
		{"not JSON", "secret-text", 96, wire.ErrPayload},
		{"deep", strings.Repeat("[", 1<<20), 1 << 21, wire.ErrPayload},
		{"deep in an unknown field", `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, 1 << 21, wire.ErrPayload},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := wire.Decode[wire.Heartbeat]([]byte(tt.payload), tt.limit)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Decode = %v, want %v", err, tt.want)
			}
			if err != nil && (got != wire.Heartbeat{} || strings.Contains(err.Error(), "secret-text")) {
				t.Errorf("Decode = %+v, %v: a value, or the payload, comes with the error", got, err)
			}
		})
	}
}

func validState() *rapid.Generator[wire.DeploymentState] {
	return rapid.Custom(func(t *rapid.T) wire.DeploymentState {
		return wire.DeploymentState{
			DeploymentRef: validRef().Draw(t, "ref"),
			Phase:         rapid.SampledFrom([]wire.Phase{wire.PhasePending, wire.PhaseRunning, wire.PhaseFailed, wire.PhaseRemoved}).Draw(t, "phase"),
			Hash:          rapid.OneOf(rapid.Just(""), rapid.Map(digest(), wire.Digest.String)).Draw(t, "hash"),
			Error:         rapid.StringN(0, 64, wire.MaxError).Draw(t, "error"),
			Containers: []wire.ContainerState{{
				Service:  validName().Draw(t, "service"),
				State:    rapid.SampledFrom([]string{"created", "running", "exited"}).Draw(t, "state"),
				ExitCode: rapid.IntRange(-1, 255).Draw(t, "exitCode"),
			}},
			LastEventAt: time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "time"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC(),
		}
	})
}

func TestDecodeStateInvertsEncoding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := validState().Draw(t, "state")
		got, err := wire.DecodeState(encode(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDecodeStateErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, payload string
		also          error
		want          string
	}{
		{"not JSON", `x`, nil, "not the JSON document"},
		{"wrong type", `{"namespace":1}`, nil, "not the JSON document"},
		{"too long", `{"namespace":"` + strings.Repeat("a", wire.KindState.Verb().MaxRequest) + `"}`, nil, "at most 16384 are allowed"},
		{"no reference", `{"phase":"Running"}`, wire.ErrNameEmpty, "namespace name"},
		{"bad name", `{"namespace":"a","name":"b.c","phase":"Running"}`, wire.ErrNameInvalid, "deployment name"},
		{"no phase", `{"namespace":"a","name":"b"}`, nil, `unknown phase ""`},
		{"unknown phase", `{"namespace":"a","name":"b","phase":"running"}`, nil, `unknown phase "running"`},
		{"long phase", `{"namespace":"a","name":"b","phase":"` + strings.Repeat("p", 9999) + `"}`, nil, "unknown phase"},
		{"bad hash", `{"namespace":"a","name":"b","phase":"Running","hash":"../x"}`, nil, "bad hash"},
		{"long error", `{"namespace":"a","name":"b","phase":"Failed","error":"` + strings.Repeat("e", wire.MaxError+1) + `"}`, nil, "more than 1024 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := wire.DecodeState([]byte(tt.payload))
			if !errors.Is(err, wire.ErrPayload) || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 256 {
				t.Errorf("DecodeState = %.300v, want a short ErrPayload with %q", err, tt.want)
			}
			if tt.also != nil && !errors.Is(err, tt.also) {
				t.Errorf("DecodeState = %v, want %v", err, tt.also)
			}
		})
	}
}

// Whatever a device writes in a request is checked when that is decoded: hashes are
// hashes, what is kept or shown as it is has a bound and can be seen.
func TestTextsOfRequests(t *testing.T) {
	t.Parallel()
	hash, long := wire.Sum(nil).String(), strings.Repeat("x", 5<<10)
	decode := map[wire.Kind]func(payload []byte) error{
		wire.KindSnapshot:  errorOf[wire.SnapshotRequest](wire.KindSnapshot),
		wire.KindBody:      errorOf[wire.BodyRequest](wire.KindBody),
		wire.KindInfo:      errorOf[wire.DeviceInfo](wire.KindInfo),
		wire.KindState:     errorOf[wire.DeploymentState](wire.KindState),
		wire.KindHeartbeat: errorOf[wire.Heartbeat](wire.KindHeartbeat),
		wire.KindSecret:    errorOf[wire.SecretRequest](wire.KindSecret),
		wire.KindRegistry:  errorOf[wire.RegistryRequest](wire.KindRegistry),
	}
	state := wire.DeploymentState{DeploymentRef: wire.DeploymentRef{Namespace: "default", Name: "a"}, Phase: wire.PhaseRunning}
	for _, tc := range []struct {
		kind wire.Kind
		good any
		bad  []any
	}{
		{
			wire.KindSnapshot,
			// What another server gave it is no fault of the device.
			wire.SnapshotRequest{Have: wire.Version{Epoch: "e1\x1b"}, InfoHash: hash, StateHash: hash, HardwareID: hash, Nonce: "IP7WKDZ6SPXMLKONY57ZJE5DRC\n", Capabilities: []string{"?\x1b"}},
			[]any{
				wire.SnapshotRequest{HardwareID: "\x1b[2J\x1b[Hok\u202e"}, wire.SnapshotRequest{HardwareID: long}, wire.SnapshotRequest{HardwareID: strings.ToUpper(hash)},
				wire.SnapshotRequest{InfoHash: "x"}, wire.SnapshotRequest{StateHash: "x"},
			},
		},
		{wire.KindBody, wire.BodyRequest{Hash: "x"}, []any{wire.BodyRequest{Hash: "a b"}}},
		{wire.KindSecret, wire.SecretRequest{Namespace: "default", Name: "x"}, []any{wire.SecretRequest{Name: "\x1b"}, wire.SecretRequest{Namespace: "\x1b"}}},
		{
			wire.KindInfo, wire.DeviceInfo{Inventory: wire.Inventory{Hostname: "Küche"}, Labels: map[string]string{"a": "b"}},
			[]any{
				wire.DeviceInfo{Inventory: wire.Inventory{Kernel: long}}, wire.DeviceInfo{Inventory: wire.Inventory{Addresses: []string{long}}},
				wire.DeviceInfo{Labels: map[string]string{"a": long}}, wire.DeviceInfo{Conditions: []wire.Condition{{Message: long}}},
			},
		},
		{wire.KindState, state, []any{wire.DeploymentState{DeploymentRef: state.DeploymentRef, Phase: state.Phase, Containers: []wire.ContainerState{{Image: long}}}}},
		{wire.KindHeartbeat, wire.Heartbeat{At: 1}, nil},
		{wire.KindRegistry, wire.RegistryRequest{}, nil},
	} {
		if err := decode[tc.kind](encode(t, tc.good)); err != nil {
			t.Errorf("%s: %+v is refused: %v", tc.kind, tc.good, err)
		}
		for _, v := range tc.bad {
			if err := decode[tc.kind](encode(t, v)); !errors.Is(err, wire.ErrPayload) {
				t.Errorf("%s: %.80v is accepted: %v", tc.kind, v, err)
			}
		}
		delete(decode, tc.kind)
	}
	if len(decode) > 0 || len(wire.Kinds) != 7 {
		t.Errorf("%d of %d kinds are not looked at", len(decode)+len(wire.Kinds)-7, len(wire.Kinds))
	}
}

func errorOf[T any](kind wire.Kind) func([]byte) error {
	return func(payload []byte) error {
		_, err := wire.DecodeRequest[T](kind, payload)
		return err
	}
}

func TestDecodeManifestReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, payload string
		want          error
	}{
		{"not modified", `{"status":"notModified"}`, nil},
		{"retry later", `{"status":"retryLater","retryAfterSeconds":3}`, nil},
		{"refused", `{"error":{"code":"rateLimited","message":"slow down"}}`, nil},
		{"nothing should run", `{"status":"manifest","manifest":{"epoch":"e","term":1,"seq":1,"complete":true,"entries":[]}}`, nil},
		{"empty document", `{}`, wire.ErrPayload},
		{"unknown status", `{"status":"later"}`, wire.ErrPayload},
		{"null", `null`, wire.ErrPayload},
		{"too long", strings.Repeat(" ", wire.MaxReply+1), wire.ErrPayload},
		{"no manifest", `{"status":"manifest"}`, wire.ErrManifest},
		{"null manifest", `{"status":"manifest","manifest":null}`, wire.ErrManifest},
		{"incomplete manifest", `{"status":"manifest","manifest":{"epoch":"e","term":1,"seq":1,"entries":[]}}`, wire.ErrManifest},
		{"manifest of null entries is complete", `{"status":"manifest","manifest":{"epoch":"e","term":1,"seq":1,"complete":true,"entries":null}}`, nil},
		{"negative term", `{"status":"manifest","manifest":{"epoch":"e","term":-1,"seq":1,"complete":true}}`, wire.ErrPayload},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := wire.DecodeManifestReply([]byte(tt.payload)); !errors.Is(err, tt.want) {
				t.Errorf("DecodeManifestReply = %v, want %v", err, tt.want)
			}
		})
	}
}

// Wherever a reply is cut off, nothing in it can be taken for a manifest.
func TestTruncatedManifestIsRefused(t *testing.T) {
	t.Parallel()
	payload := encode(t, wire.SnapshotReply{Status: wire.SnapshotManifest, Manifest: goodManifest()})
	for n := range payload {
		if _, err := wire.DecodeManifestReply(payload[:n]); err == nil {
			t.Fatalf("cut to %d of %d bytes it is accepted: %s", n, len(payload), payload[:n])
		}
	}
}

func TestStateHash(t *testing.T) {
	t.Parallel()
	reports := rapid.MapOfN(validRef(), digest(), 0, 8)
	rapid.Check(t, func(t *rapid.T) {
		original := reports.Draw(t, "reports")
		want := wire.StateHash(original)
		if !wire.ValidHash(want) {
			t.Fatalf("StateHash = %q, want 64 hex digits", want)
		}
		if got := wire.StateHash(rebuilt(original)); got != want {
			t.Fatal("depends on the order of the map")
		}
		for ref := range original {
			checkSensitive(t, original, ref, want)
		}
	})
}

// rebuilt returns a map with the same content, filled in another order.
func rebuilt(reports map[wire.DeploymentRef]wire.Digest) map[wire.DeploymentRef]wire.Digest {
	keys := slices.SortedFunc(maps.Keys(reports), func(a, b wire.DeploymentRef) int { return b.Compare(a) })
	m := map[wire.DeploymentRef]wire.Digest{}
	for _, key := range keys {
		m[key] = reports[key]
	}
	return m
}

// checkSensitive fails unless the hash changes with the digest and with the
// presence of ref, and with each bit of the digest.
func checkSensitive(t *rapid.T, reports map[wire.DeploymentRef]wire.Digest, ref wire.DeploymentRef, hash string) {
	changed := maps.Clone(reports)
	d := changed[ref]
	d[rapid.IntRange(0, len(d)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	changed[ref] = d
	if wire.StateHash(changed) == hash {
		t.Fatalf("insensitive to the digest of %v", ref)
	}
	delete(changed, ref)
	if wire.StateHash(changed) == hash {
		t.Fatalf("insensitive to the presence of %v", ref)
	}
}

// Agents in the field and an upgraded server must agree on the hash.
func TestStateHashGolden(t *testing.T) {
	t.Parallel()
	got := []string{
		wire.StateHash(nil),
		wire.StateHash(map[wire.DeploymentRef]wire.Digest{
			{Namespace: "default", Name: "hello"}: wire.Sum([]byte("1")),
			{Namespace: "a", Name: "b"}:           wire.Sum([]byte("2")),
		}),
	}
	want := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"161527f361ceeb84f9fc75dc4fa4670868efe869ba58d9f39c3425b2d5912639",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefusalIsAnError(t *testing.T) {
	t.Parallel()
	var err error = &wire.Refusal{Code: wire.RefusedNameTaken, Message: "the name edge is taken"}
	if refusal, ok := errors.AsType[*wire.Refusal](err); !ok || refusal.Code != wire.RefusedNameTaken || err.Error() != refusal.Message {
		t.Errorf("error is %v", err)
	}
}
