// Package interpreter is the driver of the agent for scores that another program
// runs: an interpreter behind a unix socket, see package interpreter in pkg for
// the protocol, and Find for how one registers.
//
// An interpreter is trusted with its own Deployments and no more. Each answer is
// bounded in size and time and printed as any text from outside, and one that does
// not answer holds up nothing but its own.
package interpreter
