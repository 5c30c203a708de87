// Package rollout says which device is changed now: a pure core without I/O. Package
// assignment says what should run where; a Plan says when each device gets there.
//
// A Plan is of one Deployment. It is told what the Deployment asks for (SetSpec, SetTarget),
// what is known of its devices (Set, Remove) and what they report (Report). Next answers with
// the orders to be carried out, the state to be written before they are, when to ask again,
// and a verdict that says what the rollout waits for.
//
// A change costs what it touches: each device is in counters, which are kept up to date. A
// pass looks at the devices one after the other only when one of them may be given something.
//
// A Plan is not safe for concurrent use.
package rollout
