package scoreschema_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/scoreschema"
	"fleet.nationtech.io/fleet/pkg/scoreschema/derive"
)

const examplesDir = "../../examples/podman-v0"

// beyond are the rules that no schema of single fields can say: about several fields, or
// about what a text means. Each is the beginning of an error, or what stands in it.
var beyond = []string{
	// Several fields.
	"is used twice", "is given twice", "is mounted twice", "appears twice", "is already taken by service", "exclude each other", "exactly one of",
	"is not 1: only a readinessProbe may ask for more", "is for mode Bridge alone", "network.mode None", "network.mode Host", "asks nobody",
	"is no service of this Deployment", "a cycle: ", "on a schedule, and nothing can wait for it", "never completes", "a service with a schedule",
	"only init containers and services with a schedule", "an init container has none", "it has terminationGracePeriodSeconds",
	"is needed, too", "is more than limits.memory", "is more than hard", "with hostIPC", "with hostPID", "has the size",
	"is for configMap and secret", "is for a named volume", "needs reload: Signal", "is the path of none of the items", "a single file cannot be exchanged",
	"at most 4096 are allowed", // of all words together
	// What a text means.
	"is not an IP address", "is not at least", "is not the name of a signal", "is not a key of a", "is not within 10m to", "is too much",
	"is no time zone", "never comes", "is no capability of Linux", "leave CAP_ out", "is one of the whole device", "the container's own",
	"is not a key such as", "acts upon keys of this kind",
	"a command is needed", // whose first word is not empty
	// A null in a list, or an object without anything in it, has empty fields.
	"an image is needed", "at least one name is needed", "the name of a service is needed", "postStart or preStop is needed", "is empty: use", `"" is unknown`, `"" is not`, `"" must be`, "0 is not within 1 to 65535",
	// The document as a whole.
	"bytes, at most",
}

// looser says which refusals of a schema are no mistakes for the validation.
var looser = regexp.MustCompile(`missing propert`) // an object without anything in it stands for none

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(scoreschema.PodmanV0()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(scoreschema.ID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(scoreschema.ID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func examples(t testing.TB) []any {
	t.Helper()
	all, err := derive.Examples(examplesDir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// judge compares schema and validation on one document. used notes which of beyond were.
type judge struct {
	schema *jsonschema.Schema
	mu     sync.Mutex
	used   map[string]bool
}

func (j *judge) disagree(data []byte) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil // not JSON, which the validation refuses first of all
	}
	bySchema, byScore := j.schema.Validate(doc), derive.PodmanV0(data)
	switch {
	case bySchema != nil && byScore == nil:
		if !looser.MatchString(bySchema.Error()) {
			return fmt.Errorf("the schema refuses what the validation takes: %w", bySchema)
		}
	case bySchema == nil && byScore != nil:
		for _, m := range mistakesOf(byScore) {
			if !j.isBeyond(m.Message) {
				return fmt.Errorf("the validation refuses what the schema takes: %s: %s: make the check one that package derive finds, or list it in this test", m.Field, m.Message)
			}
		}
	}
	return nil
}

func (j *judge) isBeyond(message string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, words := range beyond {
		if strings.Contains(message, words) {
			j.used[words] = true
			return true
		}
	}
	return false
}

func mistakesOf(err error) []*score.FieldError {
	if all, ok := errors.AsType[score.FieldErrors](err); ok {
		return all
	}
	one, _ := errors.AsType[*score.FieldError](err)
	return []*score.FieldError{one}
}

// nasty are values that some fields refuse.
func nasty() []any {
	values := []any{
		nil, true, false, "", "a", "A", "web", "a b", "é", "\x00", "\x01", "/", "/a", "/a/../b", "a/", "..", ".", "-", "1", "0", "64Mi", "80", "Always", "OnFailure", "TCP", "SIGTERM", "SIGNAL",
		"127.0.0.1", "::1", "1.2.3.4.5", "localhost/a:1", "nginx", strings.Repeat("a", 64), strings.Repeat("a", 300), "/" + strings.Repeat("a", 5000), "None", "Memory", "@daily", "500m",
		map[string]any{}, map[string]any{"x": 1}, []any{}, []any{nil}, []any{""}, []any{"a", "a"}, []any{1}, []any{map[string]any{}},
	}
	for _, n := range []int64{-1 << 53, -2, -1, 0, 1, 2, 63, 64, 256, 257, 1000, 1001, 1024, 3600, 3601, 4096, 65535, 65536, 86400, 86401, 1 << 31, 1 << 53} {
		values = append(values, json.Number(fmt.Sprint(n)))
	}
	values = append(values, json.Number("1.5"))
	many := make([]any, 300)
	for i := range many {
		many[i] = fmt.Sprint("a", i)
	}
	return append(values, many)
}

// Each value of each field of the examples is replaced by what may be wrong, and each
// object gets a field that it does not have.
func TestSchemaAgreesWithValidation(t *testing.T) {
	t.Parallel()
	j := &judge{schema: compiled(t), used: map[string]bool{}}
	n := 0
	values := nasty()
	for _, example := range examples(t) {
		if err := j.disagree(encode(t, example)); err != nil {
			t.Fatal(err)
		}
		derive.Mutate(example, values, func(at string, mutant any) {
			n++
			if err := j.disagree(encode(t, mutant)); err != nil {
				t.Errorf("%s: %v", at, err)
			}
		})
	}
	if n < 5000 {
		t.Errorf("%d mutants only", n)
	}
	for _, data := range ofSeveral {
		n++
		if err := j.disagree([]byte(data)); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	}
	for _, words := range beyond {
		if !j.used[words] {
			t.Errorf("no document has the mistake %q: is it still one?", words)
		}
	}
}

// ofSeveral have mistakes that no change of a single value makes.
var ofSeveral = []string{
	`{"services":[{"name":"a","image":"localhost/a","env":[{"name":"A"},{"name":"A"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","env":[{"name":"A","value":"x","valueFrom":{"secretKeyRef":{"name":"a","key":"a"}}}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","volumes":[{"name":"a","mountPath":"/a"},{"name":"b","mountPath":"/a"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","ports":[{"hostPort":80,"containerPort":1},{"hostPort":80,"containerPort":2}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","livenessProbe":{"tcpSocket":{"port":1},"successThreshold":2}}]}`,
	`{"services":[{"name":"a","image":"localhost/a"}],"services":[{"name":"a","image":"localhost/a"}]}`,
	`{"services":[{"name":"a","image":"localhost/a","args":["` + strings.Repeat("a", 2*score.MaxSize) + `"]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","restart":"Always","schedule":{"cron":"@daily"}}]}`,
	`{"services":[{"name":"a","image":"localhost/a","schedule":{"cron":"0 0 30 2 *"}}]}`,
	`{"services":[{"name":"a","image":"localhost/a","volumes":[{"configMap":{"name":"a"},"mountPath":"/a","subPath":"a","reload":"None"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","volumes":[{"configMap":{"name":"a","items":[{"key":"a","path":"a"}]},"mountPath":"/a","subPath":"b"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","labels":{"a b":"x"}}]}`,
	`{"services":[{"name":"a","image":"localhost/a","labels":{"io.podman.x":"x"}}]}`,
	`{"services":[{"name":"a","image":"localhost/a","lifecycle":{"preStop":{"exec":{"command":["a"]},"timeoutSeconds":1}}}]}`,
	`{"services":[{"name":"a","image":"localhost/a","securityContext":{"capabilities":{"add":["CAP_NET_ADMIN"]}}}]}`,
	`{"services":[{"name":"a","image":"localhost/a","devices":[{"path":"/dev/a","mountPath":"/dev/shm"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","hostIPC":true,"shmSize":"1Mi"}]}`,
	`{"services":[{"name":"a","image":"localhost/a","hostPID":true,"init":true}]}`,
	`{"services":[{"name":"a","image":"localhost/a","resources":{"limits":{"memory":"7Ei","swap":"7Ei"}}}]}`,
	`{"services":[{"name":"a","image":"localhost/a"}],"initContainers":[{"name":"b","image":"localhost/a","restart":"Never"}]}`,
	`{"services":[{"name":"a","image":"localhost/a","volumes":[{"name":"d","mountPath":"/d","sizeLimit":"1Mi"}]},{"name":"b","image":"localhost/a","volumes":[{"name":"d","mountPath":"/d","sizeLimit":"2Mi"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","ports":[{"hostPort":80,"containerPort":81}]}],"network":{"mode":"Host"}}`,
	`{"services":[{"name":"a","image":"localhost/a","schedule":{"cron":"@daily"}},{"name":"b","image":"localhost/a","dependsOn":[{"service":"a"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a"},{"name":"b","image":"localhost/a","dependsOn":[{"service":"a","condition":"Completed"}]}]}`,
	`{"services":[{"name":"a","image":"localhost/a","lifecycle":{"preStop":{"exec":{"command":["` + strings.Repeat("a", 5000) + `"]}}}}]}`,
}

// A schema that says less must not pass.
func TestSchemaThatDisagreesIsSeen(t *testing.T) {
	t.Parallel()
	for old, changed := range map[string]string{`"maximum": 65535`: `"maximum": 65536`, `"maxItems": 256`: `"maxItems": 255`, `"OnFailure",`: ``, `"readOnly"`: `"readonly"`} {
		text := strings.ReplaceAll(string(scoreschema.PodmanV0()), old, changed)
		if text == string(scoreschema.PodmanV0()) {
			t.Fatalf("the schema has no %s", old)
		}
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("x.json", doc); err != nil {
			t.Fatal(err)
		}
		s, err := c.Compile("x.json")
		if err != nil {
			t.Fatal(err)
		}
		j, seen := &judge{schema: s, used: map[string]bool{}}, false
		values := append(nasty(), make256())
		for _, example := range examples(t) {
			derive.Mutate(example, values, func(_ string, mutant any) { seen = seen || j.disagree(encode(t, mutant)) != nil })
		}
		if !seen {
			t.Errorf("nothing shows that %s became %s", old, changed)
		}
	}
}

func make256() []any {
	items := make([]any, 256)
	for i := range items {
		items[i] = fmt.Sprint("a", i)
	}
	return items
}

// `make generate` is not forgotten, and each field has a comment and an example.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	t.Parallel()
	sources, err := derive.ReadSources("../score")
	if err != nil {
		t.Fatal(err)
	}
	d := derive.Deriver{Sources: sources, Examples: examples(t), Validate: derive.PodmanV0}
	s, err := d.Schema(reflect.TypeFor[score.PodmanV0]())
	if err != nil {
		t.Fatal(err)
	}
	s.Draft, s.ID, s.Title = scoreschema.Draft, scoreschema.ID, score.TypePodmanV0
	want, err := scoreschema.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	published, err := os.ReadFile("../../docs/reference/podman-v0.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, scoreschema.PodmanV0()) || !bytes.Equal(want, published) {
		t.Error("the types of package score have changed: run make generate")
	}
	for _, missing := range d.Missing(s) {
		t.Error(missing)
	}
}

// The fuzzer chooses an example, a place in it and what is put there.
func FuzzSchemaAgreesWithValidation(f *testing.F) {
	j := &judge{schema: compiled(f), used: map[string]bool{}}
	all := examples(f)
	f.Add(uint(0), uint(3), `"x"`)
	f.Add(uint(0), uint(9), `{"name":"a"}`)
	f.Add(uint(1), uint(7), `[{"name":"a","mountPath":"/a"}]`)
	f.Fuzz(func(t *testing.T, example, place uint, text string) {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var value any
		if decoder.Decode(&value) != nil {
			value = text
		}
		if number, ok := value.(json.Number); ok && strings.ContainsAny(number.String(), ".eE") {
			return // a whole number for JSON Schema may have an exponent, for the validation it may not
		}
		data := encode(t, derive.Mutant(all[example%uint(len(all))], place, value))
		if bytes.ContainsAny(data, "eE.") && hasFraction(data) {
			return
		}
		if err := j.disagree(data); err != nil {
			t.Errorf("%s: %v", data, err)
		}
	})
}

var fraction = regexp.MustCompile(`[:\[,]-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?[,}\]]`)

func hasFraction(data []byte) bool {
	for _, number := range fraction.FindAll(data, -1) {
		if bytes.ContainsAny(number, ".eE") || len(number) > 18 {
			return true
		}
	}
	return false
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
