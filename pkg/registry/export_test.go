package registry

// What the tests see of the unexported parts.
var (
	Fits   = fits
	Answer = answer
)
