#!/bin/sh
# image.sh OUT SUITE ARCH SOURCE…: makes OUT.raw, a disk with one ext4 file
# system that holds Debian with cloud-init and what fleet-agent depends on, and
# OUT.vmlinuz and OUT.initrd to boot it with. Needs mmdebstrap, root, and a mount
# namespace of its own.
set -eu
out=$1 suite=$2 arch=$3
shift 3

case $arch in
amd64) kernel=linux-image-cloud-amd64 ;;
arm64) kernel=linux-image-cloud-arm64 ;;
*)
	echo "image.sh: no image for $arch: use amd64 or arm64" >&2
	exit 1
	;;
esac

packages=$kernel,initramfs-tools,zstd,systemd-sysv,systemd-timesyncd,libpam-systemd,dbus,dbus-user-session,udev,kmod
packages=$packages,cloud-init,openssh-server,iproute2,netplan.io,systemd-resolved,sudo,procps,curl,ca-certificates
packages=$packages,podman,uidmap,crun,fuse-overlayfs,passt,slirp4netns,netavark,aardvark-dns,catatonit,busybox-static

root=$(mktemp -d "$out.root.XXXXXX")
emulator=
trap 'rm -rf --one-file-system "$root"; [ -z "$emulator" ] || echo -1 >"$emulator"' EXIT

# The programs of another processor run under qemu, which the system may not have
# been told: that is one of the things that systemd does at boot.
binfmt=/proc/sys/fs/binfmt_misc
if [ "$arch" = arm64 ] && [ "$(dpkg --print-architecture)" != arm64 ]; then
	[ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt
	if [ ! -e $binfmt/qemu-aarch64 ]; then
		emulator=$binfmt/qemu-aarch64
		cat /usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register
	fi
fi

# MODULES=list: the modules of the host must not decide what the guest can boot.
# shellcheck disable=SC2016 # expanded by mmdebstrap's shell
mmdebstrap --quiet --variant=minbase --architectures="$arch" --format=directory \
	--aptopt='Apt::Install-Recommends "false"' --include="$packages" \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list >"$1/etc/initramfs-tools/conf.d/fleet"
		printf "%s\n" virtio_pci virtio_mmio virtio_blk virtio_net ext4 isofs >"$1/etc/initramfs-tools/modules"' \
	"$suite" "$root" "$@"

rm -f "$root/etc/machine-id" "$root"/etc/ssh/ssh_host_* "$root/etc/resolv.conf" "$root/etc/hostname"
: >"$root/etc/machine-id"
ln -s /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo 'datasource_list: [NoCloud]' >"$root/etc/cloud/cloud.cfg.d/90-fleet.cfg"
echo '/dev/vda / ext4 rw,errors=remount-ro 0 1' >"$root/etc/fstab"
# Nobody waits at a console for what a test machine does by itself.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer
systemctl --root="$root" --quiet enable systemd-networkd

cp "$root"/boot/vmlinuz-* "$out.vmlinuz"
cp "$root"/boot/initrd.img-* "$out.initrd"
truncate -s 6G "$out.raw.partial"
mkfs.ext4 -q -F -d "$root" "$out.raw.partial"
mv "$out.raw.partial" "$out.raw"
