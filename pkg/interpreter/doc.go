// Package interpreter is for programs that run scores of a type of their own on a
// device: the protocol that fleet-agent speaks with them, and its serving side.
// docs/reference/interpreters.md describes the protocol for other languages.
//
// A connection carries one request and one answer, each a line of JSON. So a
// program can serve a socket for long (Server.Serve), or be started by systemd for
// each connection and answer on its standard output (Server.Answer).
//
// The agent's side is pkg/agent/interpreter. The package imports the contract,
// pkg/unixserve and the standard library only.
package interpreter
