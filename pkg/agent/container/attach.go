package container

import "io"

// Attachment is a command that runs in a container beside what that is for, and what it
// is connected with.
type Attachment struct {
	// Command has at least one word.
	Command []string
	// Terminal gives the command a terminal of its own. There is no Err then: what it
	// writes as an error goes to Out, too.
	Terminal bool
	// Size is that of the terminal, Sizes further ones as they come; nil for none.
	Size  Size
	Sizes <-chan Size
	// In may be nil for nothing. It is read until it ends, which may be after the
	// command did.
	In       io.Reader
	Out, Err io.Writer
}

// Size is that of a terminal, in characters.
type Size struct{ Rows, Columns uint16 }
