#!/usr/bin/env bash
# Unpacks the kubectl of Debian's archive to the file that is named, without installing
# it: that of Debian 12 is years old.
set -euo pipefail

target=$(realpath -m "${1:?name the file to write}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -qq kubernetes-client
dpkg-deb -x kubernetes-client_*.deb .
install -D -m 0755 usr/bin/kubectl "$target"
