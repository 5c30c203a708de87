// Package hostinstall changes a host so that it runs fleet-server or
// fleet-agent, and undoes that: files, account, unit, settings, and the package
// repository of a gateway. The commands install, upgrade and uninstall of both
// programs are made of it, so it imports neither side.
//
// Three promises. A file that somebody else wrote or edited is neither
// overwritten nor removed: a manifest has the hash of every file that was
// written here. What was interrupted, by a power cut for example, ends well when
// it is run again: the manifest is written before what it describes. And an
// upgrade that does not become ready is undone, data included, except for what
// keeps somebody out. What has been in use since a backup was made is never set
// back to it.
//
// An Installer looks at the host (facts), plans (a list of steps, by pure functions
// of facts), and does the steps. A ledger records what is to be undone before it is
// done, a backup is what an upgrade goes back to, and a Host is where all effects are.
package hostinstall
