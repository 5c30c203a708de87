package revisions

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
)

// orphanKey returns the key of the Deployment that may adopt a revision which nothing owns: one
// whose Deployment was deleted with --cascade=orphan, or whose owner somebody took away. It is
// empty for a revision that has an owner, is about to go, or says no hash.
func orphanKey(r *appsv1.ControllerRevision) string {
	name := r.Labels[v1alpha1.LabelDeployment]
	if name == "" || r.Annotations[v1alpha1.AnnotationScoreHash] == "" || !r.DeletionTimestamp.IsZero() || metav1.GetControllerOfNoCopy(r) != nil {
		return ""
	}
	return r.Namespace + "/" + name
}

func orphanOf(o any) ([]string, error) {
	if key := orphanKey(o.(*appsv1.ControllerRevision)); key != "" {
		return []string{key}, nil
	}
	return nil, nil
}

// adoptOrphans makes revisions that nothing owns those of the Deployment of their label, as
// Kubernetes' controllers do: they are its history, and nobody else would ever remove them.
func (k *Keeper) adoptOrphans(ctx context.Context, d *v1alpha1.Deployment) error {
	objects, _ := k.Revisions.GetIndexer().ByIndex(orphanIndex, d.Namespace+"/"+d.Name) // fails for an unknown index only
	if len(objects) == 0 {
		return nil
	}
	// The caches may be behind: one that is deleted with --cascade=orphan must not take back
	// what it lets go.
	if live, err := k.Live(ctx, d.Namespace, d.Name); err != nil || live.UID != d.UID || !live.DeletionTimestamp.IsZero() {
		return client.IgnoreNotFound(err)
	}
	ahead := k.aheadOf(d)
	for _, o := range objects {
		if name := o.(*appsv1.ControllerRevision).Name; ahead[name] == nil {
			if err := k.adoptOrphan(ctx, d, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// adoptOrphan leaves alone what is no revision of ours: it has another hash than its score.
// What is changed meanwhile comes again.
func (k *Keeper) adoptOrphan(ctx context.Context, d *v1alpha1.Deployment, name string) error {
	r, err := k.Kube.AppsV1().ControllerRevisions(d.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	if orphanKey(r) != d.Namespace+"/"+d.Name || hashOf(r) != r.Annotations[v1alpha1.AnnotationScoreHash] {
		return nil
	}
	k.Metrics.Wrote("ControllerRevision", "adopted")
	adopted, err := k.patch(ctx, d.Namespace, name, map[string]any{"metadata": map[string]any{
		"uid": r.UID, "resourceVersion": r.ResourceVersion, "ownerReferences": append(r.OwnerReferences, ownerReference(d)),
	}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		k.wrote(d, adopted)
	}
	return err
}
