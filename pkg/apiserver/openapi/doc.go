// Package openapi holds the OpenAPI definitions of the built-in kinds that the
// apiserver serves. Server-side apply, field validation and `kubectl explain`
// need them. The definitions of apimachinery's own types come from
// apiextensions-apiserver.
package openapi

//go:generate go tool -modfile=../../../tools/go.mod openapi-gen --output-dir . --output-pkg fleet.nationtech.io/fleet/pkg/apiserver/openapi --output-file zz_generated.openapi.go --go-header-file /dev/null --report-filename /dev/null k8s.io/api/apps/v1 k8s.io/api/core/v1 k8s.io/api/coordination/v1 k8s.io/api/authorization/v1 k8s.io/api/authentication/v1 k8s.io/api/events/v1 k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/api/resource
//go:generate go run trim.go ControllerRevision ControllerRevisionList Namespace NamespaceList Secret SecretList ConfigMap ConfigMapList Event EventList Lease LeaseList SelfSubjectAccessReview SelfSubjectRulesReview SelfSubjectReview
