// Package files runs scores of type FilesV0: it puts files below directories that
// agent.yaml lists, and takes back what it put. It is the root half of that, an
// interpreter of package interpreter in a unit of its own, so that the agent needs
// no right to write anywhere.
//
// What it put it keeps in a ledger: of each file which content, mode and owner. A
// file that is not what the ledger says belongs to somebody else by now, and is
// neither replaced nor deleted. The ledger is written before files are changed and
// again afterwards, so that a power cut at any point leaves nothing that it would
// not recognize.
package files
