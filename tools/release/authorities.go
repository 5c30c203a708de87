package main

import (
	"bytes"
	"encoding/pem"
	"fmt"

	roots "golang.org/x/crypto/x509roots/fallback/bundle"
)

// authorities are Mozilla's in PEM, with which the server verifies mirrors. They
// come from a module, so that go.sum says which, and not the machine that builds.
func authorities() ([]byte, error) {
	var b bytes.Buffer
	for root := range roots.Roots() {
		if root.Constraint != nil {
			continue // a file in PEM cannot say it
		}
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("writing the authorities: %w", err)
		}
	}
	return b.Bytes(), nil
}
