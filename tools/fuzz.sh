#!/usr/bin/env bash
# usage: fuzz.sh TIME
# Runs each fuzz target of the repository for TIME (for example 5s).
set -euo pipefail

cd "$(dirname "$0")/.."
time=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT

find pkg -name '*_test.go' -print0 | sort -z |
  xargs -0 grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's|/[^/]*:func | |' |
  while read -r package target; do
    printf '    %-20s %s\n' "$package" "$target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$package" </dev/null >"$log" 2>&1 ||
      { cat "$log" >&2; exit 1; }
  done
