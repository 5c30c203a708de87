package link

// Session is the id that tests address what the server sends by.
func (l *Link) Session() string { return l.session }
