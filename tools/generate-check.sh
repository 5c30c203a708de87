#!/usr/bin/env bash
# Fails when `make generate` changes a file. What it changed stays, ready to be
# committed.
set -euo pipefail

cd "$(dirname "$0")/.."
before=$(mktemp)
trap 'rm -f "$before"' EXIT

sums() { find pkg docs/reference -type f -print0 | sort -z | xargs -0 sha256sum; }

sums >"$before"
make --no-print-directory generate
if ! changed=$(sums | diff "$before" -); then
  echo "generated files were not up to date; commit what 'make generate' changed:" >&2
  sed -n 's/^[<>] [0-9a-f]*  //p' <<<"$changed" | sort -u >&2
  exit 1
fi
