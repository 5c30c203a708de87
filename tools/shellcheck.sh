#!/usr/bin/env bash
# Runs shellcheck on every file of the repository that begins with a shell's
# "#!" line, whatever its name.
set -euo pipefail

cd "$(dirname "$0")/.."
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
  xargs -0 awk 'FNR == 1 && /^#!.*[\/ ](ba|da|k)?sh( |$)/ { printf "%s%c", FILENAME, 0 } { nextfile }' |
  xargs -0 -r shellcheck
