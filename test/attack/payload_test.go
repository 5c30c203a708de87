package attack_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// payloadAttacks use subjects of the device's own, with content that is not.
func (a *arena) payloadAttacks() []attack {
	return []attack{
		{"ask for bodies of others", a.foreignBodies, counts(answered(wire.KindBody, wire.RefusedNotFound))},
		{"ask for bodies at odd offsets", a.oddOffsets, counts(answered(wire.KindBody, wire.RefusedBadRequest))},
		{"ask for secrets of others", a.foreignSecrets, counts(answered(wire.KindSecret, wire.RefusedNotFound), answered(wire.KindSecret, wire.RefusedBadRequest))},
		{"ask for what is in another namespace", a.foreignNamespace, counts(answered(wire.KindBody, wire.RefusedNotFound))},
		{"report about Deployments of others", a.foreignReports, allows("kept as what the device says of itself, and not counted for a Deployment that is not meant for it")},
		{"report about very many Deployments", a.manyReports, counts(answered(wire.KindState, wire.RefusedNotFound))},
		{"replay an old report", a.replayedReports, allows("a device decides what it says of itself")},
		{"a report that stops the status of a shared Deployment", a.poisonedStatus, counts(answered(wire.KindState, wire.RefusedBadRequest))},
		{"an inventory that stops the reconciler", a.poisonedInfo, allows("what no Device may hold is left out, with an event")},
		{"snapshots of foreign epochs", a.foreignEpochs, allows("the answer is the device's own manifest, as for one with an empty disk")},
		{"payloads over each limit", a.oversize, counts(answered(wire.KindState, wire.RefusedBadRequest))},
		{"a payload over the limit of the bus", a.overMaxPayload, counts(refusal("bus", "payload"))},
		{"malformed documents", a.malformed, counts(answered(wire.KindState, wire.RefusedBadRequest), answered(wire.KindSnapshot, wire.RefusedBadRequest))},
		{"odd documents", a.oddDocuments, counts(answered(wire.KindState, wire.RefusedBadRequest))},
		{"names with wildcards and separators", a.oddNames, counts(answered(wire.KindState, wire.RefusedBadRequest))},
		{"long strings in every field", a.longStrings, counts(answered(wire.KindState, wire.RefusedBadRequest), answered(wire.KindInfo, wire.RefusedBadRequest))},
	}
}

func (a *arena) foreignBodies(t *testing.T, d *device) {
	own := d.manifest(1).Entries[0]
	var hashes []string
	for _, v := range a.victims {
		hash := v.entry.Hash
		hashes = append(hashes, hash, strings.ToUpper(hash), " "+hash, hash+"\x00", hash[:63], hash+" ", own.Hash+hash)
	}
	for range 100 {
		hashes = append(hashes, randomHex(32))
	}
	for _, hash := range append(hashes, "", "*", "../"+a.victims[0].name, strings.Repeat("0", 64)) {
		if answer := asked[wire.BodyReply](d, wire.KindBody, wire.BodyRequest{Hash: hash}); answer.Error == nil || len(answer.Data) > 0 {
			t.Errorf("body %q: %+v", hash, answer)
		}
	}
	if answer := d.request(wire.KindBody, wire.BodyRequest{Hash: own.Hash}); answer.Error != nil {
		t.Errorf("its own body is refused: %v", answer.Error)
	}
}

func (a *arena) oddOffsets(t *testing.T, d *device) {
	own := d.manifest(1).Entries[0]
	for _, offset := range []int{-1, math.MinInt, own.Size, own.Size + 1, math.MaxInt, math.MaxInt - wire.BodyChunk} {
		if answer := d.request(wire.KindBody, wire.BodyRequest{Hash: own.Hash, Offset: offset}); answer.Error == nil {
			t.Errorf("offset %d: %+v", offset, answer)
		}
	}
	for _, payload := range []string{`{"hash":"` + own.Hash + `","offset":1e999}`, `{"hash":"` + own.Hash + `","offset":"0"}`, `{"hash":["` + own.Hash + `"]}`, `{"hash":"` + own.Hash + `","offset":99999999999999999999}`} {
		if answer := d.request(wire.KindBody, []byte(payload)); answer.Error == nil {
			t.Errorf("%s: %+v", payload, answer)
		}
	}
}

const secretContent = "a password that no attacker may see"

func (a *arena) foreignSecrets(t *testing.T, d *device) {
	a.secret(t, "default", "victims-secret")
	for _, payload := range []any{
		wire.SecretRequest{Namespace: "default", Name: "victims-secret"}, wire.SecretRequest{Namespace: "kube-system", Name: "victims-secret"}, wire.SecretRequest{Name: "victims-secret"},
		wire.SecretRequest{Namespace: "default", Name: "../default/victims-secret"}, wire.SecretRequest{Namespace: "*", Name: "*"}, wire.SecretRequest{}, []byte(`{`), []byte(`null`),
	} {
		if reply := asked[wire.SecretReply](d, wire.KindSecret, payload); reply.Error == nil || len(reply.Data) > 0 {
			t.Errorf("secret %+v: %d keys", payload, len(reply.Data))
		}
	}
}

func (a *arena) secret(t *testing.T, namespace, name string) {
	t.Helper()
	kube, err := kubernetes.NewForConfig(a.rest)
	must(t, err)
	_, err = kube.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"password": secretContent},
	}, metav1.CreateOptions{})
	if err != nil && !strings.Contains(err.Error(), "already exists") {
		t.Fatal(err)
	}
}

// foreignNamespace: the name of the device's own Deployment in another namespace.
func (a *arena) foreignNamespace(t *testing.T, d *device) {
	own := d.manifest(1).Entries[0]
	kube, err := kubernetes.NewForConfig(a.rest)
	must(t, err)
	namespace := "n" + randomHex(5)
	_, err = kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(t, err)
	ref := a.deploy(namespace, attackerPrefix+"app", "nobody", "of another tenant")
	foreign := a.hashOf(t, ref)
	if answer := d.request(wire.KindBody, wire.BodyRequest{Hash: foreign}); answer.Error == nil {
		t.Errorf("the body of another namespace's Deployment: %+v", answer)
	}
	d.request(wire.KindState, wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhaseRunning, Hash: own.Hash})
	d.request(wire.KindState, wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhaseFailed, Hash: foreign, Error: "forged"})
	time.Sleep(settling / 2)
	o, err := a.client.Deployments(namespace).Get(t.Context(), ref.Name, metav1.GetOptions{})
	must(t, err)
	if g := o.Status.Aggregate; g != nil && (g.MatchedDeviceCount != 0 || g.Succeeded != 0 || g.Failed != 0 || g.LastError != nil) {
		t.Errorf("aggregate of a Deployment without devices: %+v", g)
	}
}

// hashOf is that of the body which devices get for a Deployment: it is the same
// wherever the score is.
func (a *arena) hashOf(t *testing.T, ref wire.DeploymentRef) string {
	t.Helper()
	o, err := a.client.Deployments(ref.Namespace).Get(t.Context(), ref.Name, metav1.GetOptions{})
	must(t, err)
	score, err := json.Marshal(wire.Score{Type: o.Spec.Score.Type, Data: o.Spec.Score.Data.Raw})
	must(t, err)
	return wire.Sum(score).String()
}

func (a *arena) foreignReports(_ *testing.T, d *device) {
	for _, v := range a.victims {
		for _, phase := range []wire.Phase{wire.PhaseRunning, wire.PhaseFailed, wire.PhasePending, wire.PhaseRemoved} {
			for _, hash := range []string{v.entry.Hash, ""} {
				d.request(wire.KindState, wire.DeploymentState{DeploymentRef: v.ref, Phase: phase, Hash: hash, Error: "forged", LastEventAt: time.Now().Add(time.Hour)})
			}
		}
	}
}

// manyReports must not fill the bucket that everybody's reports are in.
func (a *arena) manyReports(t *testing.T, d *device) {
	const most = 2 * wire.MaxEntries
	for i := range most {
		state := encode(t, wire.DeploymentState{DeploymentRef: wire.DeploymentRef{Namespace: "default", Name: fmt.Sprintf("x%d", i)}, Phase: wire.PhasePending, Error: strings.Repeat("x", wire.MaxError)})
		must(t, d.conn.PublishMsg(d.message(wire.KindState, state)))
	}
	d.request(wire.KindBody, wire.BodyRequest{})
	kept := func() int {
		keys, err := a.ready.Buckets.State.ListKeysFiltered(t.Context(), "state."+d.name+".>")
		must(t, err)
		n := 0
		for range keys.Keys() {
			n++
		}
		return n
	}
	eventually(t, "the last report", func() error {
		if answer := d.request(wire.KindState, wire.DeploymentState{DeploymentRef: wire.DeploymentRef{Namespace: "default", Name: "last"}, Phase: wire.PhaseRemoved}); code(answer) == wire.RefusedUnavailable {
			return answer.Error
		}
		return nil
	})
	if n := kept(); n == 0 || n > wire.MaxEntries+1 {
		t.Errorf("%d reports of one device are kept, at most %d Deployments are possible", n, wire.MaxEntries)
	}
}

// replayedReports says what was true before, once more.
func (a *arena) replayedReports(t *testing.T, d *device) {
	own := d.manifest(1).Entries[0]
	report := func(phase wire.Phase, hash string, at time.Time) []byte {
		return encode(t, wire.DeploymentState{DeploymentRef: own.DeploymentRef, Phase: phase, Hash: hash, LastEventAt: at})
	}
	old := report(wire.PhaseFailed, strings.Repeat("1", 64), time.Now().Add(-time.Hour))
	for _, state := range [][]byte{old, report(wire.PhaseRunning, own.Hash, time.Now()), old, old} {
		d.request(wire.KindState, state)
	}
	// Those of a victim, byte for byte.
	for _, v := range a.victims {
		d.request(wire.KindState, v.state)
	}
}

// poisonedStatus reports what the API does not accept in the status of the
// Deployment, which would keep every later status out.
func (a *arena) poisonedStatus(t *testing.T, _ *device) {
	group := "shared" + randomHex(4)
	token := a.site.token(map[string]string{"group": group})
	ref := a.deploy("default", attackerPrefix+group, group)
	attacker, other := a.enroll(t, token, attackerPrefix+randomHex(4)).connect(), a.enroll(t, token, attackerPrefix+randomHex(4)).connect()
	defer attacker.conn.Close()
	defer other.conn.Close()
	entry := attacker.manifest(1).Entries[0]
	other.manifest(1)
	poison := func(tail string) []byte {
		return []byte(fmt.Sprintf(`{"namespace":%q,"name":%q,"phase":"Failed","hash":%q,%s}`, ref.Namespace, ref.Name, entry.Hash, tail))
	}
	phase := wire.PhaseRunning
	for name, payload := range map[string][]byte{
		"no time":          poison(`"error":"x"`),
		"the year 0":       poison(`"error":"x","lastEventAt":"0000-01-01T00:00:00Z"`),
		"the year 10000":   poison(`"error":"x","lastEventAt":"9999-12-31T23:59:59-23:59"`),
		"no text":          poison(`"lastEventAt":"2026-01-01T00:00:00Z"`),
		"control bytes":    poison(`"error":"\u0000\u001b[2J\ud800\u009b\u202e","lastEventAt":"2026-01-01T00:00:00Z"`),
		"bytes that are 3": poison(`"error":"` + strings.Repeat("\xff", wire.MaxError/3) + `","lastEventAt":"2026-01-01T00:00:00Z"`),
		"the longest":      poison(`"error":"` + strings.Repeat("\xff", wire.MaxError) + `","lastEventAt":"2026-01-01T00:00:00Z"`),
	} {
		attacker.request(wire.KindState, payload)
		other.request(wire.KindState, wire.DeploymentState{DeploymentRef: ref, Phase: phase, Hash: entry.Hash, LastEventAt: time.Now()})
		want := 1
		if phase == wire.PhasePending {
			want = 0
		}
		eventually(t, "a status in spite of "+name, func() error {
			o, err := a.client.Deployments(ref.Namespace).Get(t.Context(), ref.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if g := o.Status.Aggregate; g == nil || g.Succeeded != want {
				return fmt.Errorf("it is %+v, want %d devices that succeeded", g, want)
			}
			if e := o.Status.Aggregate.LastError; e != nil && steers(e.Message) {
				t.Errorf("an operator's terminal gets %q", e.Message)
			}
			return nil
		})
		if phase = wire.PhasePending; want == 0 {
			phase = wire.PhaseRunning
		}
	}
}

// steers reports whether a terminal would do more than show a text.
func steers(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// poisonedInfo reports what no Device may hold. The one that reports it may
// suffer, nobody else.
func (a *arena) poisonedInfo(t *testing.T, d *device) {
	long := strings.Repeat("x", 10_000)
	for _, payload := range []string{
		`{"inventory":{"cpuCores":-1,"memoryMiB":-9223372036854775808}}`, `{"inventory":{"hostname":"` + long + `"}}`, `{"inventory":{"arch":"\u0000","os":"a b","kernel":"\u001b[2J"}}`,
		`{"inventory":{},"labels":{"":"","a/b/c":"x","` + strings.Repeat("k", 400) + `":"v","fleet.nationtech.io/device-id":"victim-0","kubernetes.io/arch":"x","group":"victim-0"}}`,
		`{"inventory":{},"conditions":[{"type":"PodmanReady","status":"Maybe","reason":"not a reason!"},{"type":"Ready","status":"True","reason":"X"},{"type":"PodmanReady","status":"True","reason":""}]}`,
		`{"inventory":{"addresses":[` + strings.TrimSuffix(strings.Repeat(`"::1",`, 2000), ",") + `]}}`, `null`, `{}`,
	} {
		d.request(wire.KindInfo, []byte(payload))
	}
	time.Sleep(settling / 2)
	o, err := a.client.Devices().Get(t.Context(), d.name, metav1.GetOptions{})
	must(t, err)
	if o.Labels["group"] != "attackers" {
		t.Errorf("labels are %v", o.Labels)
	}
	const hostile = `\u001b[2J\u009b31m\u202eevil\u007f\n`
	d.request(wire.KindInfo, []byte(`{"inventory":{"hostname":"`+hostile+`","addresses":["`+hostile+`"]},"conditions":[{"type":"PodmanReady","status":"False","reason":"X","message":"`+hostile+`"}]}`))
	eventually(t, "the texts of the device", func() error {
		o, err := a.client.Devices().Get(t.Context(), d.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if o.Spec.Inventory == nil || !strings.Contains(o.Spec.Inventory.Hostname, "evil") {
			return fmt.Errorf("the inventory is %+v", o.Spec.Inventory)
		}
		for _, c := range o.Status.Conditions {
			if steers(c.Message) {
				t.Errorf("an operator's terminal gets %q", c.Message)
			}
		}
		if steers(o.Spec.Inventory.Hostname + strings.Join(o.Spec.Inventory.Addresses, "")) {
			t.Errorf("an operator's terminal gets %+q", o.Spec.Inventory.Hostname)
		}
		return nil
	})
	// The reconciler still works for others.
	next, hostname := a.bystander, randomHex(8)
	next.request(wire.KindInfo, wire.DeviceInfo{Inventory: wire.Inventory{Hostname: hostname}})
	eventually(t, "the inventory of another", func() error {
		o, err := a.client.Devices().Get(t.Context(), next.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if o.Spec.Inventory == nil || o.Spec.Inventory.Hostname != hostname {
			return fmt.Errorf("it is %+v", o.Spec.Inventory)
		}
		return nil
	})
}

// foreignEpochs claims to have what the server never issued.
func (a *arena) foreignEpochs(t *testing.T, d *device) {
	own := d.manifest(1).Version
	for _, have := range []wire.Version{
		{Epoch: "another", Term: own.Term, Seq: own.Seq}, {Epoch: own.Epoch, Term: math.MaxUint64, Seq: math.MaxUint64}, {Epoch: strings.Repeat("e", 800)},
		{Epoch: own.Epoch, Term: own.Term + 1}, {Epoch: "\x00*>"},
	} {
		req := d.snapshotRequest()
		req.Have = have
		if answer := d.snapshot(req); answer.Manifest == nil || answer.Manifest.Version != own {
			t.Errorf("with %.100v it gets %+v", have, answer)
		}
	}
}

// oversize sends one byte more than each kind may have.
func (a *arena) oversize(t *testing.T, d *device) {
	for _, kind := range wire.Kinds {
		payload := []byte(`{"x":"` + strings.Repeat("x", kind.Verb().MaxRequest-7) + `"}`)
		m := d.message(kind, payload)
		if kind == wire.KindHeartbeat || kind == wire.KindSecret {
			must(t, d.conn.PublishMsg(m))
			continue
		}
		if answer, err := d.ask(t.Context(), m); err != nil || code(answer) != wire.RefusedBadRequest {
			t.Errorf("%d bytes of %s: %+v, %v", len(payload), kind, answer.Error, err)
		}
	}
	d.settle()
	buckets := a.ready.Buckets
	for _, later := range []string{"later", "latest"} { // heartbeats are written together
		must(t, buckets.Beat(later, nil))
		eventually(t, "a later heartbeat", func() error {
			_, err := buckets.Heartbeat.Get(t.Context(), "heartbeat."+later)
			return err
		})
		must(t, buckets.RemoveHeartbeat(t.Context(), later))
	}
	if _, err := buckets.Heartbeat.Get(t.Context(), "heartbeat."+d.name); err == nil {
		t.Error("the oversize heartbeat is there")
	}
}

func (a *arena) overMaxPayload(t *testing.T, d *device) {
	limit := d.conn.MaxPayload()
	for _, more := range []int64{0, 1} {
		r := d.introduce(`{"verbose":false}`)
		_, _ = r.hear("PONG")
		r.say("PUB %s %d\r\n%s\r\nPING\r\n", d.up(wire.KindState), limit+more, strings.Repeat("x", int(limit+more)))
		if said, in := r.hear("PONG"); in != (more == 0) {
			t.Errorf("%d bytes over the limit: %.200q", more, said)
		}
	}
	// Announced and never sent.
	r := d.introduce(`{"verbose":false}`)
	r.say("PUB %s %d\r\n", d.up(wire.KindState), limit)
	_ = r.Close()
}

// malformedDocuments are no documents at all, or not of the kind expected.
var malformedDocuments = []string{
	"", " ", "{", "}", "[]", "[", `"x"`, "1", "true", "{}{}", `{"a":1,}`, "\xff\xfe", "\x00", "{\"phase\":\"Running\x00\"}", "{\x00}", "<xml/>", "---\na: b",
	strings.Repeat("[", 100_000), strings.Repeat("[", 900), strings.Repeat(`{"a":`, 180), `{"have":` + strings.Repeat("[", 900) + `}`,
	`{"have":{"term":1e400}}`, `{"have":{"term":-1}}`, `{"have":{"term":18446744073709551616}}`, `{"phase":` + strings.Repeat("9", 900) + `}`,
}

func (a *arena) malformed(t *testing.T, d *device) {
	for _, kind := range []wire.Kind{wire.KindState, wire.KindBody, wire.KindInfo} {
		for _, text := range malformedDocuments {
			if kind == wire.KindInfo && strings.HasPrefix(text, `{"`) || len(text) > int(d.conn.MaxPayload()) {
				continue // fields that it does not have are ignored
			}
			answer, err := d.ask(t.Context(), d.message(kind, []byte(text)))
			if err != nil || answer.Error == nil {
				t.Errorf("%s %.50q: %+v, %v", kind, text, answer, err)
			}
			if answer.Error != nil && len(answer.Error.Message) > 500 {
				t.Errorf("%s %.50q: the answer repeats it", kind, text)
			}
			if kind == wire.KindInfo {
				time.Sleep(budgetPause / 10)
			}
		}
	}
	for _, text := range malformedDocuments[:12] {
		if answer := d.request(wire.KindSnapshot, []byte(text)); answer.Error == nil {
			t.Errorf("snapshot %.50q: %+v", text, answer)
		}
		must(t, d.conn.PublishMsg(d.message(wire.KindHeartbeat, []byte(text))))
	}
}

// oddDocuments are accepted by some decoders and refused by others: what counts
// is that nobody reads them as something of a victim.
func (a *arena) oddDocuments(_ *testing.T, d *device) {
	v := a.victims[0]
	own := fmt.Sprintf(`"namespace":"default","name":%q,"phase":"Running"`, attackerPrefix+"app")
	for _, text := range []string{
		`{` + own + `,"name":"` + v.ref.Name + `"}`, `{"Name":"` + v.ref.Name + `",` + own + `}`, `{` + own + `,"NAME":"` + v.ref.Name + `"}`,
		`{` + own + `,"device":"` + v.name + `","id":"` + v.name + `"}`, `{` + own + `,"hash":"` + v.entry.Hash + `","__proto__":{}}`, "\ufeff{" + own + "}", `{` + own + `,"containers":null}`,
		`{` + own + `,"error":"\ud800\udc00\u0000"}`, `{` + own + `,"containers":[{"service":"\xff","exitCode":-2147483649}]}`, `{` + own + `,"lastEventAt":"2026-11-21t00:00:00+99:99"}`,
		`{` + own + `}` + strings.Repeat(" ", 10_000), `{` + own + `,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
	} {
		d.request(wire.KindState, []byte(text))
	}
}

// oddNames would be read as something else if they were put into a key.
func (a *arena) oddNames(t *testing.T, d *device) {
	victim := a.victims[0]
	for _, name := range []string{
		"", "*", ">", "a.b", "a b", "a\x00b", "a\nb", "../" + victim.name, victim.name + ".default." + victim.name, "A", "é", "-", "a-", strings.Repeat("a", 64), strings.Repeat("a", 10_000), "a/b", "%2e", "а",
	} {
		for _, ref := range []wire.DeploymentRef{{Namespace: "default", Name: name}, {Namespace: name, Name: "x"}} {
			if answer := d.request(wire.KindState, wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhaseRunning}); code(answer) != wire.RefusedBadRequest {
				t.Errorf("name %.50q: %s", name, code(answer))
			}
		}
	}
}

func (a *arena) longStrings(_ *testing.T, d *device) {
	own := d.manifest(1).Entries[0]
	for _, s := range []string{strings.Repeat("x", 10_000), strings.Repeat("\u0001", 2500), strings.Repeat("\xff", 10_000), strings.Repeat(`\u2028`, 2500)} {
		for _, text := range []string{
			`{"namespace":"%s","name":"x","phase":"Running"}`, `{"namespace":"x","name":"%s","phase":"Running"}`, `{"namespace":"default","name":"` + own.Name + `","phase":"%s"}`,
			`{"namespace":"default","name":"` + own.Name + `","phase":"Failed","error":"%s"}`, `{"namespace":"default","name":"` + own.Name + `","phase":"Running","hash":"%s"}`,
			`{"namespace":"default","name":"` + own.Name + `","phase":"Running","containers":[{"service":"%s","state":"running"}]}`,
			`{"namespace":"default","name":"` + own.Name + `","phase":"Running","lastEventAt":"%s"}`, `{"%s":1}`,
		} {
			d.request(wire.KindState, []byte(strings.Replace(text, "%s", s, 1)))
		}
		for _, text := range []string{`{"inventory":{"hostname":"%s"}}`, `{"labels":{"group":"%s"},"inventory":{}}`, `{"inventory":{},"conditions":[{"type":"PodmanReady","status":"True","reason":"X","message":"%s"}]}`} {
			d.request(wire.KindInfo, []byte(strings.Replace(text, "%s", s, 1)))
		}
	}
}
