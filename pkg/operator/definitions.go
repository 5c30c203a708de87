package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/apis/crds"
)

// ErrDefinitions: the cluster lacks the definitions of this version.
var ErrDefinitions = errors.New("the cluster lacks definitions of this version: install chart fleet-crds of this version, or `fleet-server gen-crd | kubectl apply --server-side -f -`")

const definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"

// checkDefinitions returns ErrDefinitions unless the cluster has each field that this version
// knows. Those of a later version may have more.
func checkDefinitions(ctx context.Context, api rest.Interface) error {
	for _, document := range crds.Documents() {
		var want unstructured.Unstructured
		if err := yaml.Unmarshal(document, &want.Object); err != nil {
			return err
		}
		data, err := api.Get().AbsPath(definitionsPath + want.GetName()).DoRaw(ctx)
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%w: %s does not exist", ErrDefinitions, want.GetName())
		}
		if err != nil {
			return fmt.Errorf("reading definition %s: %w", want.GetName(), err)
		}
		var has unstructured.Unstructured
		if err := has.UnmarshalJSON(data); err != nil {
			return fmt.Errorf("reading definition %s: %w", want.GetName(), err)
		}
		for version, schema := range versions(&want) {
			served, ok := versions(&has)[version]
			if !ok {
				return fmt.Errorf("%w: %s does not serve %s", ErrDefinitions, want.GetName(), version)
			}
			if field := lacks(schema, served, ""); field != "" {
				return fmt.Errorf("%w: %s has no %s", ErrDefinitions, want.GetName(), field[1:])
			}
		}
	}
	return nil
}

// versions are the schemas of the versions that a definition serves.
func versions(definition *unstructured.Unstructured) map[string]map[string]any {
	schemas := map[string]map[string]any{}
	list, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, item := range list {
		version, _ := item.(map[string]any)
		if served, _, _ := unstructured.NestedBool(version, "served"); !served {
			continue
		}
		name, _, _ := unstructured.NestedString(version, "name")
		schemas[name], _, _ = unstructured.NestedMap(version, "schema", "openAPIV3Schema")
	}
	return schemas
}

// lacks names a field of a schema that another one has not, with a dot before each name.
func lacks(want, has map[string]any, at string) (field string) {
	if items, ok := want["items"].(map[string]any); ok {
		other, _ := has["items"].(map[string]any)
		return lacks(items, other, at)
	}
	properties, _ := want["properties"].(map[string]any)
	others, _ := has["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		other, there := others[name].(map[string]any)
		if !there {
			return at + "." + name
		}
		property, _ := properties[name].(map[string]any)
		if field := lacks(property, other, at+"."+name); field != "" {
			return field
		}
	}
	return ""
}
