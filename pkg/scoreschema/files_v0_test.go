package scoreschema_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/scoreschema"
	"fleet.nationtech.io/fleet/pkg/scoreschema/derive"
)

// beyondFiles are the rules of FilesV0 that no schema of single fields can say.
var beyondFiles = []string{"exactly one of", "exclude each other", "nor a number from 0 to", "is not a key of a"}

// The schema of FilesV0 agrees with its validation, too, and is that of its types.
func TestSchemaOfFilesAgrees(t *testing.T) {
	t.Parallel()
	examples, err := derive.Examples("../../examples/files-v0")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(scoreschema.FilesV0()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(scoreschema.FilesID, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(scoreschema.FilesID)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, example := range examples {
		derive.Mutate(example, nasty(), func(at string, mutant any) {
			n++
			data := encode(t, mutant)
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			bySchema, byScore := schema.Validate(doc), derive.FilesV0(data)
			if (bySchema == nil) == (byScore == nil) || bySchema != nil && looser.MatchString(bySchema.Error()) || onlyBeyond(byScore) {
				return
			}
			t.Errorf("%s: the schema says %v, the validation %v", at, bySchema, byScore)
		})
	}
	if n < 500 {
		t.Errorf("%d mutants only", n)
	}
	published, err := os.ReadFile("../../docs/reference/files-v0.schema.json")
	if err != nil || !bytes.Equal(published, scoreschema.FilesV0()) || !strings.Contains(string(published), score.TypeFilesV0) {
		t.Errorf("run make generate: %v", err)
	}
}

func onlyBeyond(err error) bool {
	return err != nil && !slices.ContainsFunc(mistakesOf(err), func(m *score.FieldError) bool {
		return !slices.ContainsFunc(beyondFiles, func(words string) bool { return strings.Contains(m.Message, words) })
	})
}
