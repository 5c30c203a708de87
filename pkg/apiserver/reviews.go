package apiserver

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// everything stands for all verbs, groups, resources or paths.
const everything = "*"

// review is a kind that is answered and not stored: it tells whoever asks who they
// are, or what they may do.
type review struct {
	gv        schema.GroupVersion
	plural    string
	singular  string
	newObject func() runtime.Object
	// answer fills in the status for the user who asks.
	answer func(context.Context, runtime.Object, user.Info) error
}

// reviews are the questions that clients ask before anything else: k9s, and
// `kubectl auth`.
func reviews(a authorizer.Authorizer) []review {
	return []review{
		{
			gv: authorizationv1.SchemeGroupVersion, plural: "selfsubjectaccessreviews", singular: "selfsubjectaccessreview",
			newObject: func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} },
			answer: func(ctx context.Context, o runtime.Object, u user.Info) error {
				return answerAccess(ctx, a, o.(*authorizationv1.SelfSubjectAccessReview), u)
			},
		},
		{
			gv: authorizationv1.SchemeGroupVersion, plural: "selfsubjectrulesreviews", singular: "selfsubjectrulesreview",
			newObject: func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} },
			answer: func(ctx context.Context, o runtime.Object, u user.Info) error {
				return answerRules(ctx, a, o.(*authorizationv1.SelfSubjectRulesReview), u)
			},
		},
		{
			gv: authenticationv1.SchemeGroupVersion, plural: "selfsubjectreviews", singular: "selfsubjectreview",
			newObject: func() runtime.Object { return &authenticationv1.SelfSubjectReview{} },
			answer: func(_ context.Context, o runtime.Object, u user.Info) error {
				o.(*authenticationv1.SelfSubjectReview).Status.UserInfo = userInfo(u)
				return nil
			},
		},
	}
}

func answerAccess(ctx context.Context, a authorizer.Authorizer, r *authorizationv1.SelfSubjectAccessReview, u user.Info) error {
	if (r.Spec.ResourceAttributes == nil) == (r.Spec.NonResourceAttributes == nil) {
		return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", field.ErrorList{
			field.Invalid(field.NewPath("spec"), "", "exactly one of resourceAttributes and nonResourceAttributes must be set"),
		})
	}
	decision, reason, err := a.Authorize(ctx, attributesOf(r.Spec, u))
	r.Status = authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		r.Status.EvaluationError = err.Error()
	}
	return nil
}

func attributesOf(spec authorizationv1.SelfSubjectAccessReviewSpec, u user.Info) authorizer.Attributes {
	if n := spec.NonResourceAttributes; n != nil {
		return authorizer.AttributesRecord{User: u, Verb: n.Verb, Path: n.Path}
	}
	r := spec.ResourceAttributes
	return authorizer.AttributesRecord{
		User: u, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: r.Version,
		Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, ResourceRequest: true,
	}
}

// answerRules knows two kinds of users, as the authorizer does: those who may do
// everything, and those who may do nothing.
func answerRules(ctx context.Context, a authorizer.Authorizer, r *authorizationv1.SelfSubjectRulesReview, u user.Info) error {
	decision, _, err := a.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: everything, APIGroup: everything, Resource: everything, ResourceRequest: true,
	})
	r.Status = authorizationv1.SubjectRulesReviewStatus{ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	if err != nil {
		r.Status.Incomplete, r.Status.EvaluationError = true, err.Error()
	}
	if decision == authorizer.DecisionAllow {
		all := []string{everything}
		r.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}
		r.Status.NonResourceRules = []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}}
	}
	return nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// reviewREST is the REST storage of a review.
type reviewREST struct{ review }

// New implements rest.Storage.
func (r reviewREST) New() runtime.Object { return r.newObject() }

// Destroy implements rest.Storage.
func (reviewREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (reviewREST) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (r reviewREST) GetSingularName() string { return r.singular }

// Create implements rest.Creater.
func (r reviewREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewUnauthorized("the request has no user")
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.answer(ctx, obj, u); err != nil {
		return nil, err
	}
	return obj, nil
}
