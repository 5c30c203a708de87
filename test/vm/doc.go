// Package vm makes virtual machines under libvirt for `make test-vm`: smoke
// tests on a kernel of their own, where memory limits, the OOM killer, the clock
// and the power can be tried.
//
// A Site has its own network, storage pool and keys, and leaves nothing behind
// but the images in its cache. Where no libvirt serves qemu:///system, it runs
// one in a network namespace of its own. KVM is used where a guest's kernel
// really starts with it; otherwise qemu emulates.
package vm
