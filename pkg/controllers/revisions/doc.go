// Package revisions keeps the scores that Deployments had, as objects of kind
// ControllerRevision in group apps/v1: what was sent to devices can be read, and sent,
// after it was replaced. The assigner imports the package.
package revisions
