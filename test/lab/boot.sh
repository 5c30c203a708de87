#!/bin/sh
# boot.sh LOWER DIR NAME CGROUP [systemd-nspawn option]…: supervise a machine. It
# runs in a mount namespace of its own, from which nothing propagates to the
# host, and in the machine's cgroup, which is CGROUP below the hierarchy's root.
set -eu
lower=$1 dir=$2 name=$3 group=/sys/fs/cgroup/$4
shift 4

# systemd-nspawn registers and locks below /run: give it one of its own.
mount -t tmpfs -o mode=0755 tmpfs /run
# The device nodes of a host without udev are open to root only.
mkdir /run/nodes
mknod -m 0666 /run/nodes/tun c 10 200
mknod -m 0666 /run/nodes/fuse c 10 229

# It ends with this mount namespace.
[ ! -e "$dir/disk" ] || mount -o loop "$dir/disk" "$dir/homes"

# systemd in the machine wants a pure cgroup2 hierarchy; the host may be hybrid.
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# A group that gives controllers to its children may have no process itself.
mkdir -p "$group/loop" "$group/box"
echo $$ >"$group/loop/cgroup.procs"
while read -r controllers; do
	for controller in $controllers; do
		echo "+$controller" >"$group/cgroup.subtree_control"
	done
done <"$group/cgroup.controllers"

# An overlay costs nothing but cannot lie on another overlay, as in a container.
if [ -e "$dir/unpacked" ] || ! mount -t overlay overlay \
	-o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"; then
	if [ ! -e "$dir/unpacked" ]; then
		cp -a "$lower/." "$dir/root/"
		cp -a "$dir/upper/." "$dir/root/"
		: >"$dir/unpacked"
	fi
fi

# keyctl: crun keeps a keyring per container. open_by_handle_at: podman 6 finds processes by it, which needs no privilege. /proc/sys/net must be writable for
# the containers' networks; systemd-sysctl stays off since the network may be
# the host's.
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
nspawn() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	sh -c 'echo $$ >"$0/cgroup.procs" && exec systemd-nspawn "$@"' "$group/box" \
		--quiet --directory="$dir/root" --machine="$name" \
		--register=no --keep-unit --console=pipe --link-journal=no \
		--resolv-conf=off --timezone=off \
		--system-call-filter='keyctl add_key open_by_handle_at' \
		--bind=/run/nodes/tun:/dev/net/tun --bind=/run/nodes/fuse:/dev/fuse \
		"$@" --boot systemd.mask=systemd-sysctl.service
}

# A machine that reboots makes systemd-nspawn end with status 133 and wait for
# its service manager to start it again.
status=133
while [ "$status" = 133 ]; do
	status=0
	nspawn "$@" || status=$?
done
exit "$status"
