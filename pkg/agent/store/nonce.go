package store

// nonceDocument is the nonce of one enrollment.
type nonceDocument struct {
	Enrollment string `json:"enrollment,omitempty"`
	Nonce      string `json:"nonce"`
}

// Nonce returns the newest nonce that the server gave this enrollment, or "".
func (s *Store) Nonce(enrollment string) string {
	var d nonceDocument
	if !s.read(nonceFile, &d) || d.Enrollment != enrollment {
		return ""
	}
	return d.Nonce
}

// SaveNonce replaces the nonce. It is on the disk when SaveNonce returns: the
// server takes a device with an old one for a copy.
func (s *Store) SaveNonce(enrollment, nonce string) error {
	return s.write(nonceFile, nonceDocument{Enrollment: enrollment, Nonce: nonce})
}
