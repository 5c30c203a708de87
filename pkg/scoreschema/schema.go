// Package scoreschema has the JSON Schemas of score types, for editors and for
// `fleet-server explain`. They are generated of the types of package score, see
// package derive. A schema says what one field may be; rules about several fields are
// left to the validation of package score, with which tests compare it.
//
// The package imports the standard library only.
package scoreschema

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

//go:generate go run ./generate

// What schemas call themselves.
const (
	Draft   = "https://json-schema.org/draft/2020-12/schema"
	ID      = "https://fleet.nationtech.io/schemas/podman-v0.schema.json"
	FilesID = "https://fleet.nationtech.io/schemas/files-v0.schema.json"
)

// podmanV0 is what `make generate` writes.
//
//go:embed podman-v0.schema.json
var podmanV0 []byte

// PodmanV0 is the schema of the data of a PodmanV0 score, in JSON.
func PodmanV0() []byte { return podmanV0 }

//go:embed files-v0.schema.json
var filesV0 []byte

// FilesV0 is the schema of the data of a FilesV0 score, in JSON.
func FilesV0() []byte { return filesV0 }

// Types are the types that a value may have. The first is what it is meant to be; null
// stands for an absent one.
type Types []string

// MarshalJSON implements json.Marshaler: one type is a string.
func (t Types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Types) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		*t = Types{""}
		return json.Unmarshal(data, &(*t)[0])
	}
	return json.Unmarshal(data, (*[]string)(t))
}

// Schema is the part of JSON Schema that scores need.
type Schema struct {
	Draft       string             `json:"$schema,omitempty"`
	ID          string             `json:"$id,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        Types              `json:"type"`
	Enum        []any              `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	AllOf       []Pattern          `json:"allOf,omitempty"`
	MinLength   int                `json:"minLength,omitempty"`
	MaxLength   int                `json:"maxLength,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	Maximum     *int               `json:"maximum,omitempty"`
	MinItems    int                `json:"minItems,omitempty"`
	MaxItems    int                `json:"maxItems,omitempty"`
	Items       *Schema            `json:"items,omitempty"`
	Properties  map[string]*Schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	// AdditionalProperties is false, or the schema of the values of a map.
	AdditionalProperties any `json:"additionalProperties,omitempty"`
	MaxProperties        int `json:"maxProperties,omitempty"`
}

// Pattern is a further pattern of a text.
type Pattern struct {
	Pattern string `json:"pattern"`
}

// Encode writes a schema as it is published.
func Encode(s *Schema) ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding a schema: %w", err)
	}
	return append(data, '\n'), nil
}
