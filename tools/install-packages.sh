#!/usr/bin/env bash
# Installs the Debian packages that checks and tests need and that are missing;
# with the argument vm, those that virtual machines need. With the argument list
# it prints the names of the former, and installs nothing.
set -euo pipefail

packages=(
  # checks, and the race detector
  shellcheck gcc libc6-dev
  # a software TPM
  swtpm
  # packages: their checks, and the tools that install them
  lintian rpmlint rpm openssl
  # install.sh on its own
  bats dash
  # machines under test: root file systems, systemd-nspawn, an image to run
  mmdebstrap systemd-container busybox-static iproute2 curl procps
  # alerts, and a scrape of the server
  prometheus
  # disks whose power is cut, or that are slow
  e2fsprogs mount strace
)
if [ "${1:-}" = vm ]; then
  packages=(
    libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils dnsmasq-base
    # images, seeds, and a way in
    mmdebstrap e2fsprogs xorriso openssh-client iproute2
  )
  if [ "${FLEET_VM_ARCH:-}" = arm64 ]; then
    packages+=(qemu-system-arm qemu-user-static arch-test)
  fi
fi

if [ "${1:-}" = list ]; then
  printf '%s\n' "${packages[@]}"
  exit
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "tools: this is not Debian; install what provides: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "tools: run as root: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi

echo "==> installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
