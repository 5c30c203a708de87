// Package rolloutspec is how a Deployment says its rollout: the fields of spec.rollout, their
// defaults and their mistakes. It makes a rollout.Spec of them.
//
// No CustomResourceDefinition has these fields yet but strategy: nothing acts on them.
package rolloutspec
