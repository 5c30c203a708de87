// Package enroll is the door for devices that have no certificate yet, or that renew
// theirs: the HTTPS listener that speaks the payloads of package wire, and that bounds
// what strangers can ask for. Package controllers/enrollment decides.
package enroll
