// Package deviceapi is the one door that devices come in by. It answers
// snapshot and body requests, takes reports and heartbeats and writes them to
// the buckets, and sends nudges. Devices cannot reach the buckets themselves.
//
// Nothing that a message says about its sender is believed: the device id is
// taken from the subject, which the broker lets only that device publish on.
package deviceapi
