package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/client-go/kubernetes"
)

// fieldManager owns what the server itself applies.
const fieldManager = "fleet-server"

// bootstrap brings a fresh or upgraded store to what every client may rely on:
// the definitions of Config.CRDs, established and discoverable, and the system
// namespaces.
type bootstrap struct {
	crds       []*apiextensionsv1.CustomResourceDefinition
	extensions apiextensionsclient.Interface
	client     kubernetes.Interface
}

func (b *bootstrap) run(ctx context.Context) error {
	for _, crd := range b.crds {
		if err := b.applyCRD(ctx, crd); err != nil {
			return err
		}
	}
	for _, name := range systemNamespaces {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := b.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating namespace %s: %w", name, err)
		}
	}
	for _, crd := range b.crds {
		if err := b.waitServed(ctx, crd); err != nil {
			return err
		}
	}
	return nil
}

// applyCRD writes only what changed, so a restart costs no write.
func (b *bootstrap) applyCRD(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	doc, err := json.Marshal(crd)
	if err != nil {
		return fmt.Errorf("encoding definition %s: %w", crd.Name, err)
	}
	force := true
	_, err = b.extensions.ApiextensionsV1().CustomResourceDefinitions().Patch(ctx, crd.Name, types.ApplyPatchType, doc,
		metav1.PatchOptions{FieldManager: fieldManager, Force: &force})
	if err != nil {
		return fmt.Errorf("applying definition %s: %w", crd.Name, err)
	}
	return nil
}

func decodeCRDs(docs [][]byte) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	crds := make([]*apiextensionsv1.CustomResourceDefinition, len(docs))
	for i, doc := range docs {
		crds[i] = &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(doc, crds[i]); err != nil {
			return nil, fmt.Errorf("decoding an embedded definition: %w", err)
		}
	}
	return crds, nil
}

// waitServed returns when clients can discover and use the definition.
func (b *bootstrap) waitServed(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	const interval, limit = 5 * time.Millisecond, 30 * time.Second
	gv := crd.Spec.Group + "/" + crd.Spec.Versions[0].Name
	err := wait.PollUntilContextTimeout(ctx, interval, limit, true, func(ctx context.Context) (bool, error) {
		got, err := b.extensions.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, crd.Name, metav1.GetOptions{})
		if err != nil || !apihelpers.IsCRDConditionTrue(got, apiextensionsv1.Established) {
			return false, nil
		}
		list, err := b.client.Discovery().ServerResourcesForGroupVersion(gv)
		if err != nil {
			return false, nil
		}
		for _, r := range list.APIResources {
			if r.Name == crd.Spec.Names.Plural {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for definition %s to be served: %w", crd.Name, err)
	}
	return nil
}
