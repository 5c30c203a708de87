// Package v1alpha1 holds the API types of group fleet.nationtech.io: what a
// person writes with kubectl and what the controllers report back.
//
// The CustomResourceDefinitions of package crds are generated from these
// types, so the comments here are what `kubectl explain` prints. The package
// imports apimachinery only; the translation to and from the bus happens in
// the controllers.
//
// +kubebuilder:object:generate=true
// +groupName=fleet.nationtech.io
package v1alpha1

//go:generate go tool -modfile=../../../../tools/go.mod controller-gen object paths=. crd:maxDescLen=1200 output:crd:dir=../../crds
//go:generate go tool -modfile=../../../../tools/reference/go.mod crd-ref-docs --log-level ERROR --source-path . --config ../../../../tools/reference/config.yaml --templates-dir ../../../../tools/reference/templates --renderer markdown --output-path ../../../../docs/reference/api.md
