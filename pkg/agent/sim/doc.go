// Package sim is a simulated device: it enrolls, connects and follows its
// manifest over the real protocol, with a key and a connection of its own, and
// runs nothing. Load tests and integration tests use it.
package sim
