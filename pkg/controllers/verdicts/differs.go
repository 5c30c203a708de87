package verdicts

import (
	"bytes"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// DeploymentDiffers reports whether a Deployment changed in what its verdict and its
// targets come from. Its status is none of it.
func DeploymentDiffers(old, now *v1alpha1.Deployment) bool {
	return old.UID != now.UID || old.Generation != now.Generation || old.DeletionTimestamp.IsZero() != now.DeletionTimestamp.IsZero()
}

// NamespaceDiffers reports whether the namespace allows something else.
func NamespaceDiffers(old, now *corev1.Namespace) bool {
	return old.Labels[v1alpha1.LabelPrivilege] != now.Labels[v1alpha1.LabelPrivilege]
}

// SecretDiffers reports whether the Secret has another content.
func SecretDiffers(old, now *corev1.Secret) bool {
	return old.UID != now.UID || !maps.EqualFunc(old.Data, now.Data, bytes.Equal)
}

// ConfigMapDiffers reports whether the ConfigMap has another content.
func ConfigMapDiffers(old, now *corev1.ConfigMap) bool {
	return old.UID != now.UID || !maps.Equal(old.Data, now.Data) || !maps.EqualFunc(old.BinaryData, now.BinaryData, bytes.Equal)
}
