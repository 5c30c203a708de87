// Package rights lets a program that root started work with what a less
// privileged account owns: as that account, and not as root. An account that
// somebody broke into must not reach root through root's own commands.
//
//	Of         whom root trusts when it follows a path
//	Become     gives up root's rights for the rest of the process
//	As         gives them up for the files that one function opens
//	Command    a process of the account, without anything of root's
//	Run        such a process with what a person sees and types
//	ReadFile   a file that its owner may have made to harm the reader
//
// It imports the standard library and x/sys, x/term only.
package rights
