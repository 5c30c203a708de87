package apiserver

import (
	"context"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

// reasonFull is the reason in the answer to a write for which the disk has no room.
const reasonFull metav1.StatusReason = "InsufficientStorage"

// fitting makes the storage of every kind fit the data store.
type fitting struct {
	generic.RESTOptionsGetter

	full func() error
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (f fitting) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := f.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err != nil {
		return o, err
	}
	undecorated := o.Decorator
	o.Decorator = func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newObject, newList func() runtime.Object,
		attrs storage.AttrFunc, trigger storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := undecorated(config, prefix, key, newObject, newList, attrs, trigger, indexers)
		return fitted{s, f.full}, destroy, err
	}
	return o, nil
}

// fitted is the storage of one kind.
type fitted struct {
	storage.Interface

	full func() error
}

// Create implements storage.Interface. A write for which there is no room is refused
// at once.
func (f fitted) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := f.full(); err != nil {
		return insufficient(err.Error())
	}
	return explainFull(f.Interface.Create(ctx, key, obj, out, ttl))
}

// GuaranteedUpdate implements storage.Interface.
func (f fitted) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, update storage.UpdateFunc, cached runtime.Object) error {
	if err := f.full(); err != nil {
		return insufficient(err.Error())
	}
	return explainFull(f.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, update, cached))
}

// Delete implements storage.Interface. There is room for deletions.
func (f fitted) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	return explainFull(f.Interface.Delete(ctx, key, out, preconditions, validate, cached, opts))
}

// Watch implements storage.Interface. Without bookmarks, a watch of a kind that
// seldom changes would come back at the revision of its last change, and read
// everything that happened since, or be told that this is too long ago.
func (f fitted) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	opts.ProgressNotify = opts.ProgressNotify || opts.Predicate.AllowWatchBookmarks
	return f.Interface.Watch(ctx, key, opts)
}

// explainFull makes an answer of what the data store says of a full disk.
func explainFull(err error) error {
	if err == nil {
		return nil
	}
	if _, words, ok := strings.Cut(err.Error(), datastore.ErrFull.Error()); ok {
		return insufficient(datastore.ErrFull.Error() + words)
	}
	return err
}

func insufficient(message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: reasonFull, Message: message,
	}}
}
