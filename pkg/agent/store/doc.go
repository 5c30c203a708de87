// Package store keeps what the agent must not forget: its identity, the last
// good manifest, the bodies that the manifest names, and what it remembers of
// every Deployment it runs.
//
// Every write is atomic: a temporary file in the same directory, fsync, rename,
// fsync of the directory. A power cut therefore leaves the old or the new
// content. Media that lie about fsync or wear out can still leave damaged files, so
// manifest and memory have a checksum, and the previous version of each is kept; the
// memory repeats what the manifest says, and the identity has a copy. What is damaged
// is reported through the logger and treated as absent, never as an error that would
// keep the agent from running what it can.
//
// Layout of the directory (mode 0700):
//
//	lock           held while an agent runs
//	identity.json  key, certificate, roots and where they came from; mode 0600
//	*-identity.json, renewal.json
//	               identities and keys on their way in and out, and a copy; mode 0600
//	revocation.json
//	               what to do since the device was revoked
//	manifest.json, previous-manifest.json
//	               the last good manifest, and the one before
//	memory.json, previous-memory.json
//	               what was applied, by Deployment
//	driver-*.json  what the drivers must not forget
//	nonce.json     the server's last nonce, by which it knows a copy
//	clock.json     the last time at which a server's certificate was valid
//	bodies/HASH    bodies of scores
//	secrets/DIGEST contents of Secrets, sealed with secrets.key
//	crashes/       what package crashes keeps
package store
