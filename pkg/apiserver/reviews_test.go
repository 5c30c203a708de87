package apiserver_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Clients ask who they are and what they may do before anything else.
func TestReviews(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := newOutside(administrator)
	access := func(spec authorizationv1.SelfSubjectAccessReviewSpec) (*authorizationv1.SelfSubjectAccessReview, error) {
		return c.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	}
	for name, spec := range map[string]authorizationv1.SelfSubjectAccessReviewSpec{
		"a resource": {ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Group: "fleet.nationtech.io", Resource: "devices"}},
		"a path":     {NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"}},
	} {
		if r, err := access(spec); err != nil || !r.Status.Allowed || r.Status.Denied {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := access(authorizationv1.SelfSubjectAccessReviewSpec{}); !apierrors.IsInvalid(err) {
		t.Errorf("neither a resource nor a path: %v", err)
	}

	rules, err := c.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"*"}
	want := authorizationv1.SubjectRulesReviewStatus{
		ResourceRules:    []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}},
		NonResourceRules: []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}},
	}
	if diff := cmp.Diff(want, rules.Status); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}

	self, err := c.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	user := authenticationv1.UserInfo{Username: "admin", Groups: []string{"system:masters"}}
	if diff := cmp.Diff(user.Groups, self.Status.UserInfo.Groups); diff != "" || self.Status.UserInfo.Username != user.Username {
		t.Errorf("user is %+v", self.Status.UserInfo)
	}
}
