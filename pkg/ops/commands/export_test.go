package commands

// What commands print.
var (
	ShowRequest = showRequest
	Claims      = claims
)
