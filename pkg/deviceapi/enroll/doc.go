// Package enroll lets devices in: it turns an enrollment token and a
// certificate request into a Device object and a client certificate, over
// HTTPS, as the payloads of package wire describe.
//
// The API store is the only state. Each step can be repeated with the same key
// and token, so a power cut on either side at any moment is fixed by asking
// again.
package enroll
