package pki

import "os"

// CheckInterval is how often serving certificates are looked at.
const CheckInterval = checkInterval

// OnWrite calls f before each file that is written; its error prevents it.
func (p *PKI) OnWrite(f func(path string) error) {
	write := p.write
	p.write = func(path string, data []byte, perm os.FileMode) error {
		if err := f(path); err != nil {
			return err
		}
		return write(path, data, perm)
	}
}
