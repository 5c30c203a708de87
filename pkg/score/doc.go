// Package score holds the score types: what a Deployment asks a device to
// run, with the validation that server and agent share.
//
// A score is {type, data}. The server routes types that it does not know and
// validates those it does; the agent has one interpreter for each type. A new
// type is a file here and an interpreter in the agent.
//
// Beside the standard library the package imports the parser of schedules and
// its own template package only.
package score
