// Package compat runs what is built from the tree with what was built from an
// earlier commit, which the file base names: the server of one with the agents of
// the other, both ways. It needs the history.
//
// What is refused on purpose: agents from before sessions had inboxes of their own
// (05222b7 and earlier). All holders of a device's key heard what the server
// answered them. The server does not let them in, and says so in its log.
package compat
