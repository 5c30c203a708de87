package revisions

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/lru"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	fieldManager = "fleet-revisions"
	// ownerIndex leads from the namespace and the UID of a Deployment to its revisions.
	ownerIndex = "owner"
	// orphanIndex leads from the key of a Deployment to the revisions that it may adopt.
	orphanIndex = "orphan"
	// maxNumber bounds the numbers that count. A larger one was set by hand, and the next
	// would not be larger still.
	maxNumber = 1 << 53
	// maxNames is how many names a revision is tried under.
	maxNames = 4
	// maxBodies is how many bodies of earlier revisions are held in memory.
	maxBodies = 16
)

// NewInformer watches the revisions of all Deployments, without what is in them.
func NewInformer(kube kubernetes.Interface) (cache.SharedIndexInformer, error) {
	i := appsinformers.NewFilteredControllerRevisionInformer(kube, metav1.NamespaceAll, 0, cache.Indexers{ownerIndex: ownerOf, orphanIndex: orphanOf},
		func(o *metav1.ListOptions) { o.LabelSelector = v1alpha1.LabelDeployment })
	return i, i.SetTransform(withoutData)
}

// withoutData drops the managed fields of a revision and its data, and makes its
// annotation tell the hash of these, whatever it said: anybody can write an annotation.
func withoutData(o any) (any, error) {
	r, ok := o.(*appsv1.ControllerRevision)
	if !ok {
		return o, nil
	}
	r.ManagedFields = nil
	if len(r.Data.Raw) == 0 {
		return r, nil
	}
	if hash := hashOf(r); hash != r.Annotations[v1alpha1.AnnotationScoreHash] {
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, v1alpha1.AnnotationScoreHash, hash)
	}
	r.Data = runtime.RawExtension{}
	return r, nil
}

// hashOf returns the hash of the score that a revision holds, empty if it holds none.
func hashOf(r *appsv1.ControllerRevision) string {
	body, err := bodyOf(r)
	if err != nil {
		return ""
	}
	return score.Hash(body)
}

func ownerOf(o any) ([]string, error) {
	r := o.(*appsv1.ControllerRevision)
	owner := metav1.GetControllerOfNoCopy(r)
	if owner == nil {
		return nil, nil
	}
	return []string{ownerKey(r.Namespace, owner.UID)}, nil
}

// ownerKey has the namespace: a reference cannot lead to another one, whatever UID it
// names.
func ownerKey(namespace string, uid types.UID) string { return namespace + "/" + string(uid) }

// Config is what a keeper needs.
type Config struct {
	Kube kubernetes.Interface
	// Revisions is an informer of NewInformer, which the caller runs.
	Revisions cache.SharedIndexInformer
	// Live reads a Deployment from the API.
	Live func(ctx context.Context, namespace, name string) (*v1alpha1.Deployment, error)
	// Held returns the hashes of the bodies that devices have of a Deployment.
	Held    func(wire.DeploymentRef) map[string]bool
	Now     func() time.Time
	Metrics *reconcile.Metrics
	Logger  *slog.Logger
}

// Keeper makes revisions and reads them.
type Keeper struct {
	Config

	bodies *lru.Cache
	mu     sync.Mutex // guards ahead
	// ahead are revisions that this process wrote, by UID of the Deployment and by name,
	// until the informer has them.
	ahead map[types.UID]map[string]*appsv1.ControllerRevision
}

// New returns a keeper.
func New(c Config) *Keeper {
	return &Keeper{Config: c, bodies: lru.New(maxBodies), ahead: map[types.UID]map[string]*appsv1.ControllerRevision{}}
}

// CauseDiffers reports whether somebody says another cause of the present score.
func CauseDiffers(old, now *v1alpha1.Deployment) bool { return causeOf(old) != causeOf(now) }

func causeOf(d *v1alpha1.Deployment) string { return d.Annotations[v1alpha1.AnnotationChangeCause] }

// Keep makes the revision of a score that was accepted, and removes what is too old.
// It returns an error when the score should wait because the revision may be written
// later.
func (k *Keeper) Keep(ctx context.Context, d *v1alpha1.Deployment, hash string, body []byte) error {
	limit := defaultHistoryLimit
	if l := d.Spec.RevisionHistoryLimit; l != nil {
		limit = int(*l)
	}
	ref := wire.DeploymentRef{Namespace: d.Namespace, Name: d.Name}
	if err := k.adoptOrphans(ctx, d); err != nil {
		return k.judge(d, err)
	}
	c := plan(k.known(d), hash, causeOf(d), limit, func() map[string]bool { return k.Held(ref) })
	if err := k.write(ctx, d, hash, body, c); err != nil {
		return err
	}
	for _, name := range c.obsolete {
		k.Metrics.Wrote("ControllerRevision", "obsolete")
		err := k.Kube.AppsV1().ControllerRevisions(d.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
		if client.IgnoreNotFound(err) != nil {
			k.Logger.Warn("removing a revision that nobody needs", "deployment", ref.String(), "revision", name, "error", err)
		}
	}
	return nil
}

func (k *Keeper) write(ctx context.Context, d *v1alpha1.Deployment, hash string, body []byte, c change) (err error) {
	var r *appsv1.ControllerRevision
	switch {
	case c.present == nil:
		k.Metrics.Wrote("ControllerRevision", "new")
		r, err = k.create(ctx, d, hash, body, c.number)
	case c.number > 0:
		k.Metrics.Wrote("ControllerRevision", "again")
		r, err = k.renumber(ctx, d, c.present.name, hash, c.number)
	case c.describe:
		k.Metrics.Wrote("ControllerRevision", "cause")
		r, err = k.patch(ctx, d.Namespace, c.present.name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{v1alpha1.AnnotationChangeCause: orNull(causeOf(d))}}})
	default:
		return nil
	}
	if err != nil {
		return k.judge(d, err)
	}
	k.wrote(d, r)
	return nil
}

// wrote notes a revision of a Deployment that the informer does not show yet.
func (k *Keeper) wrote(d *v1alpha1.Deployment, r *appsv1.ControllerRevision) {
	_, _ = withoutData(r)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ahead[d.UID] == nil {
		k.ahead[d.UID] = map[string]*appsv1.ControllerRevision{}
	}
	k.ahead[d.UID][r.Name] = r
}

// judge says whether a score has to wait. It does not when the API would refuse the
// revision each time: the namespace is about to be deleted, or a quota is used up.
func (k *Keeper) judge(d *v1alpha1.Deployment, err error) error {
	if !refused(err) {
		return fmt.Errorf("keeping the score as a revision: %w", err)
	}
	k.Logger.Warn("the API refuses a revision, so that the score will be gone once it is replaced", "deployment", d.Namespace+"/"+d.Name, "error", err)
	return nil
}

func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) ||
		apierrors.IsRequestEntityTooLargeError(err) || errors.Is(err, errNoName)
}

var errNoName = errors.New("foreign revisions have its names: delete them")

func (k *Keeper) create(ctx context.Context, d *v1alpha1.Deployment, hash string, body []byte, number int64) (*appsv1.ControllerRevision, error) {
	annotations := map[string]string{}
	for key, v := range k.annotations(d, hash) {
		if s, ok := v.(string); ok {
			annotations[key] = s
		}
	}
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Annotations: annotations,
			Labels:          map[string]string{v1alpha1.LabelDeployment: d.Name},
			OwnerReferences: []metav1.OwnerReference{ownerReference(d)},
		},
		Data:     runtime.RawExtension{Raw: []byte(`{"spec":{"score":` + string(body) + `}}`)},
		Revision: number,
	}
	for attempt := range maxNames {
		r.Name = nameOf(d, hash, attempt)
		made, err := k.Kube.AppsV1().ControllerRevisions(d.Namespace).Create(ctx, r, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) { // made by a process before this one, or by somebody else
			made, err = k.adopt(ctx, d, r.Name, hash, number)
		}
		if !errors.Is(err, errForeign) {
			return made, err
		}
	}
	return nil, errNoName
}

func ownerReference(d *v1alpha1.Deployment) metav1.OwnerReference {
	return *metav1.NewControllerRef(d, v1alpha1.GroupVersion.WithKind("Deployment"))
}

var errForeign = errors.New("it is of something else")

// adopt makes a revision that the informer does not show as one of the Deployment the
// newest: it is behind, or somebody took the label or the owner away.
func (k *Keeper) adopt(ctx context.Context, d *v1alpha1.Deployment, name, hash string, number int64) (*appsv1.ControllerRevision, error) {
	r, err := k.Kube.AppsV1().ControllerRevisions(d.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if owner := metav1.GetControllerOfNoCopy(r); owner != nil && owner.UID != d.UID || hashOf(r) != hash {
		return nil, errForeign
	}
	owners := slices.DeleteFunc(r.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == d.UID })
	return k.patch(ctx, d.Namespace, name, map[string]any{"revision": number, "metadata": map[string]any{
		"uid": r.UID, "annotations": k.annotations(d, hash), "labels": map[string]any{v1alpha1.LabelDeployment: d.Name}, "ownerReferences": append(owners, ownerReference(d)),
	}})
}

// renumber makes the revision of a score that is back the newest.
func (k *Keeper) renumber(ctx context.Context, d *v1alpha1.Deployment, name, hash string, number int64) (*appsv1.ControllerRevision, error) {
	return k.patch(ctx, d.Namespace, name, map[string]any{"metadata": map[string]any{"annotations": k.annotations(d, hash)}, "revision": number})
}

func (k *Keeper) patch(ctx context.Context, namespace, name string, fields map[string]any) (*appsv1.ControllerRevision, error) {
	patch, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encoding the change of a revision: %w", err)
	}
	return k.Kube.AppsV1().ControllerRevisions(namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
}

// annotations say what, when, who and why; nil stands for what is not known.
func (k *Keeper) annotations(d *v1alpha1.Deployment, hash string) map[string]any {
	return map[string]any{
		v1alpha1.AnnotationScoreHash:   hash,
		v1alpha1.AnnotationChangedAt:   k.Now().UTC().Format(time.RFC3339),
		v1alpha1.AnnotationChangedBy:   orNull(client.ScoreManager(d)),
		v1alpha1.AnnotationChangeCause: orNull(causeOf(d)),
	}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// nameOf is another one for a Deployment that was deleted and created again: the
// revisions of the first may still be there.
func nameOf(d *v1alpha1.Deployment, hash string, attempt int) string {
	of := string(d.UID) + "/" + hash
	if attempt > 0 {
		of += "/" + strconv.Itoa(attempt)
	}
	sum := sha256.Sum256([]byte(of))
	return d.Name + "-" + hex.EncodeToString(sum[:5])
}

// known are the revisions of a Deployment.
func (k *Keeper) known(d *v1alpha1.Deployment) []revision {
	objects, _ := k.Revisions.GetIndexer().ByIndex(ownerIndex, ownerKey(d.Namespace, d.UID)) // fails for an unknown index only
	byName := map[string]*appsv1.ControllerRevision{}
	for _, o := range objects {
		r := o.(*appsv1.ControllerRevision)
		byName[r.Name] = r
	}
	for _, r := range k.aheadOf(d) {
		byName[r.Name] = r
	}
	revisions := make([]revision, 0, len(byName))
	for _, r := range byName {
		if r.Revision > maxNumber {
			continue
		}
		revisions = append(revisions, revision{
			name: r.Name, number: r.Revision, hash: r.Annotations[v1alpha1.AnnotationScoreHash], cause: r.Annotations[v1alpha1.AnnotationChangeCause],
		})
	}
	return revisions
}

// aheadOf are the revisions of a Deployment that the informer does not show yet as they are.
func (k *Keeper) aheadOf(d *v1alpha1.Deployment) map[string]*appsv1.ControllerRevision {
	k.mu.Lock()
	defer k.mu.Unlock()
	own := k.ahead[d.UID]
	maps.DeleteFunc(own, func(name string, r *appsv1.ControllerRevision) bool {
		seen, has, _ := k.Revisions.GetIndexer().GetByKey(d.Namespace + "/" + name) // fails never
		return has && !older(seen.(*appsv1.ControllerRevision), r)
	})
	if len(own) == 0 {
		delete(k.ahead, d.UID)
	}
	return maps.Clone(own)
}

// older reports whether a is an earlier version of the object.
func older(a, b *appsv1.ControllerRevision) bool {
	va, errA := strconv.ParseUint(a.ResourceVersion, 10, 64)
	vb, errB := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errA == nil && errB == nil && va < vb
}

// Watch calls changed with the key of a Deployment that lost a revision, or may adopt one. It
// returns what says that every revision is listed: those that were there at the start are
// adopted when their Deployments are kept first.
func (k *Keeper) Watch(changed func(deployment string)) (cache.DoneChecker, error) {
	adoptable := func(o any) {
		if key := orphanKey(o.(*appsv1.ControllerRevision)); key != "" {
			changed(key)
		}
	}
	h, err := k.Revisions.AddEventHandler(reconcile.Guarded(k.Metrics.Loop("revision-changes", k.Logger), cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if !initial {
				adoptable(o)
			}
		},
		UpdateFunc: func(_, o any) { adoptable(o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			r := o.(*appsv1.ControllerRevision)
			if owner := metav1.GetControllerOfNoCopy(r); owner != nil {
				k.forget(owner.UID, r.Name)
				changed(r.Namespace + "/" + owner.Name)
			}
		},
	}))
	if err != nil {
		return nil, err
	}
	return h.HasSyncedChecker(), nil
}

func (k *Keeper) forget(deployment types.UID, revision string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.ahead[deployment], revision)
}

// Body reads the body of an earlier score of a Deployment from the API. It returns
// nil when no revision has it.
func (k *Keeper) Body(ctx context.Context, d *v1alpha1.Deployment, hash string) ([]byte, error) {
	known := k.known(d)
	i := slices.IndexFunc(known, func(r revision) bool { return r.hash == hash })
	if i < 0 {
		return nil, nil
	}
	if body, has := k.bodies.Get(hash); has {
		return body.([]byte), nil
	}
	o, err := k.Kube.AppsV1().ControllerRevisions(d.Namespace).Get(ctx, known[i].name, metav1.GetOptions{})
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	body, err := bodyOf(o)
	if err != nil {
		return nil, fmt.Errorf("reading revision %s/%s: %w", d.Namespace, o.Name, err)
	}
	if score.Hash(body) != hash { // deleted and made again meanwhile
		return nil, nil
	}
	k.bodies.Add(hash, body)
	return body, nil
}

// Hashes are those of the scores of a Deployment that are kept, the newest first.
func (k *Keeper) Hashes(d *v1alpha1.Deployment) (hashes []string) {
	known := k.known(d)
	slices.SortFunc(known, func(a, b revision) int { return cmp.Compare(b.number, a.number) })
	for _, r := range known {
		hashes = append(hashes, r.hash)
	}
	return hashes
}

func bodyOf(r *appsv1.ControllerRevision) ([]byte, error) {
	var data struct {
		Spec struct {
			Score struct {
				Type string          `json:"type"`
				Data json.RawMessage `json:"data"`
			} `json:"score"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	return score.Canonical(data.Spec.Score.Type, data.Spec.Score.Data)
}
