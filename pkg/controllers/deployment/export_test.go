package deployment

import "fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"

func Differs(old, now *v1alpha1.Deployment) bool { return differs(old, now) }
