#!/usr/bin/env bash
# usage: fuzz.sh TIME [keep [TARGET...]]
# Runs each fuzz target of the repository, or those named, for TIME (for example
# 10s), one on each processor. With keep, the inputs that reached something new
# are copied to testdata/fuzz, the smallest first, at most 50 a target.
set -euo pipefail

cd "$(dirname "$0")/.."
time=$1
keep=${2:-}
logs=$(mktemp -d)
# shellcheck disable=SC2046 # one word for each job
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$logs"' EXIT
corpus=$(go env GOCACHE)/fuzz/$(go list -m)

keep_corpus() { # package target
  local from=$corpus/$1/$2 to=$1/testdata/fuzz/$2
  [ -d "$from" ] || return 0
  mkdir -p "$to"
  find "$from" -type f -size -17k -printf '%s %p\n' | sort -n | head -n 50 | cut -d' ' -f2- | xargs -r cp -t "$to"
}

# Go's fuzzer now and then takes the end of its own time for a failure
# (golang/go#75804). A real one comes with an input that was written down.
only_late() { # log
  grep -qx '    context deadline exceeded' "$1" && ! grep -q 'Failing input' "$1"
}

# By default a minute goes into making each new input smaller.
fuzz() { # package target
  local log=$logs/$2
  GOMAXPROCS=1 go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x "./$1" </dev/null >"$log" 2>&1 || only_late "$log" ||
    { cat "$log" >&2; return 1; }
  [ "$keep" != keep ] || keep_corpus "$1" "$2"
  printf '    %-20s %-28s %s executions\n' "$1" "$2" "$(sed -n 's/^fuzz: elapsed.*execs: \([0-9]*\).*/\1/p' "$log" | tail -n 1)"
}

mapfile -t targets < <(find pkg cmd -name '*_test.go' -print0 | sort -z |
  xargs -0 grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's|/[^/]*:func | |')
[ ${#targets[@]} -gt 0 ] || { echo "fuzz: no targets found" >&2; exit 1; }
running=0
for t in "${targets[@]}"; do
  read -r package target <<<"$t"
  if [ $# -gt 2 ] && [[ " ${*:3} " != *" $target "* ]]; then continue; fi
  if [ "$running" -ge "$(nproc)" ]; then
    wait -n
    running=$((running - 1))
  fi
  fuzz "$package" "$target" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n
  running=$((running - 1))
done
