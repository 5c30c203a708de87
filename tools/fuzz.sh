#!/usr/bin/env bash
# usage: fuzz.sh TIME [keep]
# Runs each fuzz target of the repository for TIME (for example 5s). With keep,
# the inputs that reached something new are copied to testdata/fuzz, the
# smallest first, at most 50 a target.
set -euo pipefail

cd "$(dirname "$0")/.."
time=$1
keep=${2:-}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
corpus=$(go env GOCACHE)/fuzz/$(go list -m)

keep_corpus() { # package target
  local from=$corpus/$1/$2 to=$1/testdata/fuzz/$2
  [ -d "$from" ] || return 0
  mkdir -p "$to"
  find "$from" -type f -size -17k -printf '%s %p\n' | sort -n | head -n 50 | cut -d' ' -f2- | xargs -r cp -t "$to"
}

# Go's fuzzer now and then takes the end of its own time for a failure
# (golang/go#75804). A real one comes with an input that was written down.
only_late() {
  grep -qx '    context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"
}

find pkg -name '*_test.go' -print0 | sort -z |
  xargs -0 grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's|/[^/]*:func | |' |
  while read -r package target; do
    printf '    %-20s %s\n' "$package" "$target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$package" </dev/null >"$log" 2>&1 || only_late ||
      { cat "$log" >&2; exit 1; }
    [ "$keep" != keep ] || keep_corpus "$package" "$target"
  done
