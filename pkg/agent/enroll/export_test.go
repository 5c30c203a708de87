package enroll

// What the tests see of the unexported parts.
var (
	ParseCertificates = parseCertificates
	EncodeRoots       = encodeRoots
)
