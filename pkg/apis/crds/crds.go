// Package crds embeds the CustomResourceDefinitions that are generated from
// the types of package v1alpha1. The server applies exactly these at start,
// and `fleet-server gen-crd` prints them.
package crds

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
)

//go:embed *.yaml
var files embed.FS

// Documents returns one YAML document for each CustomResourceDefinition,
// ordered by file name.
func Documents() [][]byte {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		panic(fmt.Sprintf("listing embedded files: %v", err)) // the pattern is a constant
	}
	docs := make([][]byte, 0, len(names))
	for _, name := range names {
		doc, err := files.ReadFile(name)
		if err != nil {
			panic(fmt.Sprintf("reading embedded file %s: %v", name, err))
		}
		docs = append(docs, doc)
	}
	return docs
}

// YAML returns all definitions as one YAML stream.
func YAML() []byte { return bytes.Join(Documents(), nil) }
