// Package lab boots real machines for tests and for the demo: Debian with
// systemd as PID 1 and rootless podman, under systemd-nspawn, on a host that
// need not run systemd itself. It also joins them in networks that can be cut.
//
// A machine costs an overlay over a shared root, about half a second to boot
// and 10 MB of disk. Everything that it needs of the host happens in a mount
// namespace and a cgroup of its own: the host's mounts, device nodes, sysctls
// and network stay as they are, and killing the cgroup leaves nothing behind.
// What an earlier run left when it was killed is removed by [Open].
//
// What a machine cannot do: memory limits (the memory controller often belongs
// to the host's cgroup v1), kernel modules, and a kernel of its own.
//
// Only tests and the demo may import this package.
package lab
