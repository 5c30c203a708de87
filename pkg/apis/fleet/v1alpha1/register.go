package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of fleet.
const GroupName = "fleet.nationtech.io"

// GroupVersion is the group and version of the types in this package.
var GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// AddToScheme registers the types of this package with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&Deployment{}, &DeploymentList{},
		&Device{}, &DeviceList{},
		&EnrollmentToken{}, &EnrollmentTokenList{},
		&EnrollmentRequest{}, &EnrollmentRequestList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
