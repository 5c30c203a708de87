#!/usr/bin/env bash
# Prints the version of this checkout, in a form that dpkg and rpm order
# rightly and that a file name can hold:
#
#   1.2.3                            at the tag v1.2.3
#   1.3.0~rc.1                       at the tag v1.3.0-rc.1, before 1.3.0
#   1.2.3+dev.20270102030405.abc1234 after it: by the time of the commit
#   0.1.0~dev.20270102030405.abc1234 before any tag
#
# Changes that were not committed append ".dirty".
set -euo pipefail

cd "$(dirname "$0")/.."
git() { command git -c safe.directory='*' "$@"; }

if ! commit=$(TZ=UTC git log -1 --format=%cd.%h --abbrev=7 --date=format-local:%Y%m%d%H%M%S 2>/dev/null); then
  echo 0.0.0~unknown # an archive of the sources
  exit
fi
release=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)
if [ -z "$release" ]; then
  version=0.1.0~dev.$commit
else
  version=${release#v}
  version=${version/-/\~}
  [ "$(git rev-parse HEAD)" = "$(git rev-parse "$release^{commit}")" ] || version=$version+dev.$commit
fi
[ -z "$(git status --porcelain --untracked-files=no)" ] || version=$version.dirty
echo "$version"
