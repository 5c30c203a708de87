package enroll

import "net/http"

// What the tests see of the unexported parts.
const RequestBurst = requestBurst

func (h *Handler) HostFor(r *http.Request) string { return h.hostFor(r) }
