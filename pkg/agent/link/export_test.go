package link

// Follow reads what a server says, in parts.
func Follow(parts ...string) error {
	var f frames
	for _, part := range parts {
		if err := f.follow([]byte(part)); err != nil {
			return err
		}
	}
	return nil
}
