package enroll

// What the tests see of the unexported parts.
const StrangerBurst = strangerBurst
