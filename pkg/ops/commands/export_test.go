package commands

// What commands print.
var (
	ShowRequest = showRequest
	Claims      = claims
)

// BareName is bareName.
var BareName = bareName
