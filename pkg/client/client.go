// Package client is a typed client of group fleet.nationtech.io, with
// informers. It works against any API server that serves the definitions.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// Clients of one kind each.
type (
	Deployments        = gentype.ClientWithList[*v1alpha1.Deployment, *v1alpha1.DeploymentList]
	Devices            = gentype.ClientWithList[*v1alpha1.Device, *v1alpha1.DeviceList]
	EnrollmentTokens   = gentype.ClientWithList[*v1alpha1.EnrollmentToken, *v1alpha1.EnrollmentTokenList]
	EnrollmentRequests = gentype.ClientWithList[*v1alpha1.EnrollmentRequest, *v1alpha1.EnrollmentRequestList]
)

// Client makes clients of the kinds.
type Client struct {
	rest   rest.Interface
	params runtime.ParameterCodec
}

// Scheme knows the kinds of the group.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(v1alpha1.AddToScheme(s))
	metav1.AddToGroupVersion(s, metav1.SchemeGroupVersion)
	return s
}

// New returns a client for an API server.
func New(config *rest.Config) (*Client, error) {
	scheme := Scheme()
	c := rest.CopyConfig(config)
	gv := v1alpha1.GroupVersion
	c.GroupVersion, c.APIPath = &gv, "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("creating a client of %s: %w", v1alpha1.GroupName, err)
	}
	return &Client{rest: r, params: runtime.NewParameterCodec(scheme)}, nil
}

// Deployments of one namespace, or of all when it is empty.
func (c *Client) Deployments(namespace string) *Deployments {
	return gentype.NewClientWithList[*v1alpha1.Deployment, *v1alpha1.DeploymentList]("deployments", c.rest, c.params, namespace,
		func() *v1alpha1.Deployment { return &v1alpha1.Deployment{} },
		func() *v1alpha1.DeploymentList { return &v1alpha1.DeploymentList{} })
}

// Devices are cluster-scoped.
func (c *Client) Devices() *Devices {
	return gentype.NewClientWithList[*v1alpha1.Device, *v1alpha1.DeviceList]("devices", c.rest, c.params, "",
		func() *v1alpha1.Device { return &v1alpha1.Device{} },
		func() *v1alpha1.DeviceList { return &v1alpha1.DeviceList{} })
}

// EnrollmentTokens are cluster-scoped.
func (c *Client) EnrollmentTokens() *EnrollmentTokens {
	return gentype.NewClientWithList[*v1alpha1.EnrollmentToken, *v1alpha1.EnrollmentTokenList]("enrollmenttokens", c.rest, c.params, "",
		func() *v1alpha1.EnrollmentToken { return &v1alpha1.EnrollmentToken{} },
		func() *v1alpha1.EnrollmentTokenList { return &v1alpha1.EnrollmentTokenList{} })
}

// EnrollmentRequests are cluster-scoped.
func (c *Client) EnrollmentRequests() *EnrollmentRequests {
	return gentype.NewClientWithList[*v1alpha1.EnrollmentRequest, *v1alpha1.EnrollmentRequestList]("enrollmentrequests", c.rest, c.params, "",
		func() *v1alpha1.EnrollmentRequest { return &v1alpha1.EnrollmentRequest{} },
		func() *v1alpha1.EnrollmentRequestList { return &v1alpha1.EnrollmentRequestList{} })
}

// DeploymentInformer watches the Deployments of every namespace.
func (c *Client) DeploymentInformer() cache.SharedIndexInformer {
	d := c.Deployments(metav1.NamespaceAll)
	return newInformer(&v1alpha1.Deployment{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return d.List(ctx, o) }, d.Watch, keepScoreManager)
}

// DeviceInformer watches the Devices. It begins with a first list, which may be nil.
func (c *Client) DeviceInformer(first FirstList) cache.SharedIndexInformer {
	d := c.Devices()
	list, observe := first.then(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return d.List(ctx, o) }, d.Watch)
	return newInformer(&v1alpha1.Device{}, list, observe, newWords().compactDevice)
}

// EnrollmentTokenInformer watches the EnrollmentTokens.
func (c *Client) EnrollmentTokenInformer() cache.SharedIndexInformer {
	t := c.EnrollmentTokens()
	return newInformer(&v1alpha1.EnrollmentToken{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return t.List(ctx, o) }, t.Watch, reconcile.WithoutManagedFields)
}

// EnrollmentRequestInformer watches the EnrollmentRequests.
func (c *Client) EnrollmentRequestInformer() cache.SharedIndexInformer {
	r := c.EnrollmentRequests()
	return newInformer(&v1alpha1.EnrollmentRequest{},
		func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return r.List(ctx, o) }, r.Watch, reconcile.WithoutManagedFields)
}

// KubeInformers returns informers of Kubernetes' own kinds.
func KubeInformers(kube kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithTransform(reconcile.WithoutManagedFields))
}

func newInformer(obj runtime.Object,
	list lister, observe watcher, strip cache.TransformFunc,
) cache.SharedIndexInformer {
	lw := &cache.ListWatch{ListWithContextFunc: cache.ListWithContextFunc(list), WatchFuncWithContext: cache.WatchFuncWithContext(observe)}
	i := cache.NewSharedIndexInformer(lw, obj, 0, cache.Indexers{})
	if err := i.SetTransform(strip); err != nil {
		panic(fmt.Sprintf("configuring a new informer: %v", err)) // fails on a started informer only
	}
	return i
}

// keepScoreManager strips the managed fields of a Deployment of all but who set the
// score.
func keepScoreManager(o any) (any, error) {
	d, ok := o.(*v1alpha1.Deployment)
	if !ok {
		return reconcile.WithoutManagedFields(o)
	}
	manager := ScoreManager(d)
	d.ManagedFields = nil
	if manager != "" {
		d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: manager}}
	}
	return d, nil
}

// ScoreManager returns the field manager that last set the score of a Deployment,
// empty if that is not known. It also takes a Deployment of an informer, whose
// managed fields must not be written back.
func ScoreManager(d *v1alpha1.Deployment) (manager string) {
	var last time.Time
	for _, e := range d.ManagedFields {
		var at time.Time
		if e.Time != nil {
			at = e.Time.Time
		}
		if e.Subresource == "" && !at.Before(last) && setsScore(e.FieldsV1) {
			manager, last = e.Manager, at
		}
	}
	return manager
}

func setsScore(fields *metav1.FieldsV1) bool {
	if fields == nil { // of an informer
		return true
	}
	var set struct {
		Spec struct {
			Score json.RawMessage `json:"f:score"`
		} `json:"f:spec"`
	}
	return json.Unmarshal(fields.GetRawBytes(), &set) == nil && set.Spec.Score != nil
}

// Patcher patches objects of one kind; every client of this package is one.
type Patcher[T any] interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (T, error)
}

// Apply does a server-side apply of what fields holds, as manager. Fields of
// other managers that it names are taken over.
func Apply[T any](ctx context.Context, p Patcher[T], manager, kind, name string, fields map[string]any, subresources ...string) (T, error) {
	doc := map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind}
	for k, v := range fields {
		doc[k] = v
	}
	meta, _ := doc["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		doc["metadata"] = meta
	}
	meta["name"] = name
	data, err := json.Marshal(doc)
	if err != nil {
		var zero T
		return zero, fmt.Errorf("encoding %s %s: %w", kind, name, err)
	}
	force := true
	return p.Patch(ctx, name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: manager, Force: &force}, subresources...)
}

// IgnoreNotFound returns nil when the object is gone.
func IgnoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
